"""The reference of the settings: key, type, default, allowed values and meaning, read from the sections themselves."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types as bounds
from pydantic.fields import FieldInfo

from multigrain.config.base import Section

NAMES = {str: "string", int: "integer", float: "float", bool: "boolean", Any: "any value", dict: "table"}
"""Types as TOML calls them."""


@dataclass(frozen=True)
class Setting:
    """One setting of a section."""

    key: str
    """Name with its sections, such as `training.phases.steps`."""
    kind: str
    """Type, as TOML calls it, or the allowed values if they are a fixed choice."""
    default: str | None
    """Default as TOML, or "none"; None if the setting is required."""
    allowed: str
    """Range of the value or of its length; empty if there is none."""
    meaning: str
    """Text below the setting in the source."""
    section: type[Section] | None = None
    """Section, if the setting is a table with its own settings."""


def settings_of(section: type[Section], prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a section in their order, each nested section before its own settings.

    >>> from multigrain.config import ExportSection
    >>> [(setting.key, setting.kind, setting.default) for setting in settings_of(ExportSection, "export.")]
    [('export.onnx', 'boolean', 'false'), ('export.int8', 'boolean', 'false')]
    """
    meanings = attribute_docs(section)
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        yield Setting(
            key=prefix + name,
            kind=_kind(field.annotation, [inner]),
            default=None if field.is_required() else _toml(field.get_default(call_default_factory=True)),
            allowed="; ".join(_ranges(field)),
            meaning=meanings.get(name, "" if inner is None else own_doc(inner)),
            section=inner,
        )
        if inner is not None:
            yield from settings_of(inner, f"{prefix}{name}.")


@cache
def attribute_docs(section: type[Section]) -> dict[str, str]:
    """Return the text below each field of a class and of its base classes."""
    texts: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if issubclass(kind, Section) and kind is not Section:
            texts |= _texts_below_fields(kind)
    return texts


def _texts_below_fields(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # only compiled, or defined in a console
        return {}
    body = ast.parse(textwrap.dedent(source)).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            texts[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return texts


def own_doc(section: type[Section]) -> str:
    """Return the docstring of the class as in the source, without the list of its settings."""
    return inspect.cleandoc(section.__dict__.get("__doc__") or "")


def with_settings(section: Any) -> str:
    """Return the docstring of the class, followed by all its settings."""
    lines = [own_doc(section), "", "Settings:"]
    for setting in settings_of(section):
        facts = [setting.kind, setting.allowed, "required" if setting.default is None else f"default {setting.default}"]
        told = setting.meaning if setting.section else f"({'; '.join(filter(None, facts))}) {setting.meaning}"
        lines += [f"    {setting.key}", *textwrap.wrap(told, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)]
    return "\n".join(lines)


def _section_in(kind: Any) -> type[Section] | None:
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _kind(annotation: Any, sections: list[type[Section] | None]) -> str:
    """Name a type in the words of TOML.

    >>> _kind(list[int] | None, [])
    'list of integers'
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in sections:
        return "table"
    if origin is None:
        return NAMES[annotation]
    if origin is Literal:
        return " or ".join(f'"{part}"' for part in parts)
    if origin in (list, dict):
        return f"{'list' if origin is list else 'table'} of {_plural(_kind(parts[-1], sections))}"
    alternatives = parts[:1] if origin is Annotated else [part for part in parts if part is not NoneType]
    return " or ".join(_kind(part, sections) for part in alternatives)


def _plural(kind: str) -> str:
    first, *rest = kind.split(" of ")
    return first if first.startswith('"') or first == "any value" else " of ".join([f"{first}s", *rest])


def _ranges(field: FieldInfo) -> Iterator[str]:
    """Yield the range of the value, then those of its parts."""
    if told := _range(field.metadata):
        yield told
    for part in _annotated_in(field.annotation):
        nested = [item for given in part.__metadata__ for item in getattr(given, "metadata", [given])]
        if told := _range(nested):
            yield f"each {told}" if get_origin(field.annotation) is list else told


def _annotated_in(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield kind
    for part in get_args(kind):
        yield from _annotated_in(part)


def _range(metadata: list[Any]) -> str:
    """Describe the bounds of a number, the length of a list or text, or a pattern."""
    low = next((item for item in metadata if isinstance(item, bounds.Ge | bounds.Gt)), None)
    high = next((item for item in metadata if isinstance(item, bounds.Le | bounds.Lt)), None)
    words = [_number_range(low, high)]
    shortest = next((item.min_length for item in metadata if isinstance(item, bounds.MinLen)), None)
    longest = next((item.max_length for item in metadata if isinstance(item, bounds.MaxLen)), None)
    if shortest is not None and shortest == longest:
        words.append(f"exactly {shortest}")
    elif shortest is not None:
        words.append("not empty")
    words += [f"pattern {item.pattern}" for item in metadata if getattr(item, "pattern", None)]
    return "; ".join(filter(None, words))


def _number_range(low: Any, high: Any) -> str:
    words = []
    if low is not None:
        words.append(f"from {_number(low.ge)}" if isinstance(low, bounds.Ge) else f"above {_number(low.gt)}")
    if high is not None:
        words.append(f"to {_number(high.le)}" if isinstance(high, bounds.Le) else f"to below {_number(high.lt)}")
    return " ".join(words)


def _number(value: Any) -> str:
    return {2**32: "2^32", 10**6: "1,000,000"}.get(value, f"{value:,}")


def _toml(value: Any) -> str:
    """Format a default as TOML.

    >>> _toml({"learning_rate": [2e-05], "schedule": "hardest"})
    '{ learning_rate = [2e-5], schedule = "hardest" }'
    """
    if value is None:
        return "none"
    if isinstance(value, Section):
        return "{}" if not value.model_fields_set else _toml(value.model_dump(exclude_unset=True))
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value).replace("e-0", "e-")
    return json.dumps(value, ensure_ascii=False)
