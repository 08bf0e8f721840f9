"""The base class of all sections: strict types, no unknown keys, frozen."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Dimension = Annotated[int, Field(ge=1)]
Grade = Annotated[int, Field(ge=1, le=4)]
Precision = Literal["fp32", "bf16", "auto"]
"""Precision of matrix products; `auto` is bf16 where the hardware computes it, else fp32."""
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the TOML file: strict types, no unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        """Accept a `Path` wherever text is wanted, for callers in Python."""
        texts = [_text(part) for part in value] if isinstance(value, list) else value
        return _text(texts)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
