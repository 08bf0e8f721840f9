"""Explain the faults of a configuration: the key, what was found, what was wanted, and the likely key."""

import json
import re
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from multigrain.config import names_elsewhere
from multigrain.config.base import Section
from multigrain.config.run import Config

ALIKE = 0.75
"""Minimum similarity, by difflib, for one key to count as a misspelling of another."""
ALTERNATIVES = {
    "data.held_out": "a share of the queries, from 0 to below 1, such as 0.1, or a list of sources",
    "model.bidirectional": "true, false, or a number of layers, at least 1",
    "model.lora.targets": '"all-linear", or a list of names such as ["q_proj", "v_proj"]',
}
"""Keys that accept values of several types -> these values, in words."""


def explained(error: ValidationError, kind: type[Section] = Config) -> list[str]:
    """Return one line for each fault that pydantic found in a section of this kind, however many types it tried."""
    lines: dict[str, str] = {}
    for fault in sorted(error.errors(), key=lambda fault: len(fault["loc"])):  # a list comes before its items
        tried = next((key for key in ALTERNATIVES if f"{_key(fault)}.".startswith(f"{key}.")), None)
        lines.setdefault(tried or str(fault["loc"]) + fault["type"], _explain(fault, kind, tried))
    return list(lines.values())


def _key(fault: ErrorDetails) -> str:
    return ".".join(str(part) for part in fault["loc"] if part != "[key]")


def _explain(fault: ErrorDetails, kind: type[Section], tried: str | None) -> str:
    """Return one line for one fault found by pydantic: the key, what was found, what was wanted."""
    key, found = tried or _key(fault), fault["input"]
    if tried is not None:
        return f"{key}: found {json.dumps(found, default=str)}; wanted {ALTERNATIVES[key]}{_share_meant(key, found)}"
    if fault["type"] == "extra_forbidden":
        return _unknown(key, kind)
    if fault["type"] == "missing":
        return f"{key}: missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if fault["type"] == "value_error":
        return f"{key}: {message}" if key else message  # a fault across sections names its keys itself
    if fault["type"] == "literal_error":
        message += _value_meant(found, re.findall("'([^']+)'", fault["ctx"]["expected"]))
    return f"{key}: found {json.dumps(found, default=str)}; {message}"


def _value_meant(found: Any, allowed: list[str]) -> str:
    near = names_elsewhere.value_for(str(found), allowed) or next(
        iter(get_close_matches(str(found).lower(), allowed, 1)), None
    )
    return f'; did you mean "{near}"?' if near else ""


def _share_meant(key: str, found: Any) -> str:
    """Suggest a share if a percentage was given."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", str(found))
    if key != "data.held_out" or not number:
        return ""
    is_percentage = 1 < float(number[1]) < 100
    return f"; did you mean {float(number[1]) / 100:g}?" if is_percentage else ""


def _unknown(key: str, kind: type[Section]) -> str:
    """Suggest a key: by its usual name, then a similar one in the same section, then the same one elsewhere."""
    name = key.rsplit(".", 1)[-1]
    key = re.sub(r"\.\d+\.", ".", key)  # training.phases.0.step
    home = key.removesuffix(name)
    known = keys_of(kind)
    here = [other.removeprefix(home) for other in known if other.startswith(home) and "." not in other[len(home) :]]
    if kind is Config and (instead := names_elsewhere.absent(name, home.rstrip("."))):
        return f"{key}: unknown key; {instead}"
    meant = names_elsewhere.key_for(name, home.rstrip(".")) if kind is Config else None
    near = get_close_matches(name.lower().replace("-", "_"), here, 1, ALIKE)
    elsewhere = [other for other in known if _bare(other.rsplit(".", 1)[-1]) == _bare(name)]
    if likely := meant or next((f"{home}{other}" for other in near), None) or next(iter(elsewhere), None):
        return f'{key}: unknown key; did you mean "{likely}"?'
    return f"{key}: unknown key; known here: {', '.join(here)}"


def _bare(name: str) -> str:
    return re.sub("[-_]", "", name.lower())


def keys_of(section: type[Section], prefix: str = "") -> list[str]:
    """Return all keys as `section.key`, including the sections themselves."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(f"{prefix}{name}")
        for kind in (field.annotation, *get_args(field.annotation)):  # a section, a list of them, or an optional one
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += keys_of(kind, f"{prefix}{name}.")
    return keys
