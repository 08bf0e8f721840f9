"""The base class of all sections: strict types, no unknown keys, frozen."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator
from pydantic._internal._model_construction import ModelMetaclass

Dimension = Annotated[int, Field(ge=1)]
Grade = Annotated[int, Field(ge=1, le=4)]
Precision = Literal["fp32", "bf16", "auto"]
"""Precision of matrix products; `auto` is bf16 where the hardware computes it, else fp32."""
Share = Annotated[float, Field(ge=0, le=1)]


class _SelfDescribing(ModelMetaclass):
    """Add the settings to the docstring when it is read; reading the source at every start would cost 0.2 s."""

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """Docstring of the class, followed by all its settings."""
        from multigrain.config.reference import with_settings

        return with_settings(self)


class Section(BaseModel, metaclass=_SelfDescribing):
    """A table of the TOML file: strict types, no unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe each setting in the JSON schema."""
        from multigrain.config.reference import attribute_docs, own_doc

        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["description"] = own_doc(cls)
        for name, text in attribute_docs(cls).items():
            schema["properties"][name]["description"] = text
        return schema

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        """Accept a `Path` wherever text is wanted, for callers in Python."""
        texts = [_text(part) for part in value] if isinstance(value, list) else value
        return _text(texts)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
