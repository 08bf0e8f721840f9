"""Check that a field of a row is present and holds text, and word the error message if not."""

import json
import math
from pathlib import Path
from typing import Any

from multigrain.errors import DataError

MOST_NAMES = 20
"""Maximum number of field names that a message lists."""
EXACT = 2**53
"""Above this, different whole numbers become the same float."""


def is_absent(value: Any) -> bool:
    """Return whether a field is empty: null, or NaN, which tables use for an empty cell."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def whole(value: Any) -> Any:
    """Return the value, with a float that is a whole number turned into an int.

    Tables store whole numbers as floats if the column has an empty cell.

    >>> whole(3.0), whole(0.5), whole("3.0")
    (3, 0.5, '3.0')
    """
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= EXACT
    return int(value) if is_whole else value


def optional_text(fields: dict[str, Any], key: str, where: str | Path, line: int | None = None) -> str:
    """Return the field as text; empty if the field is absent.

    Raises:
        DataError: the field holds something other than text.
    """
    value = fields.get(key)
    if is_absent(value):
        return ""
    if not isinstance(value, str):
        raise DataError(where, no_text(key, value), line)
    return value


def names_of(fields: dict[str, Any]) -> str:
    """Return the field names as a message lists them."""
    named = ", ".join(f'"{name}"' for name in list(fields)[:MOST_NAMES]) or "none"
    return f"{named} and {len(fields) - MOST_NAMES} more" if len(fields) > MOST_NAMES else named


def text_field(fields: dict[str, Any], key: str, path: Path, line: int) -> str:
    """Return the field as non-empty text.

    Raises:
        DataError: the field is missing, not text, or blank.
    """
    if key not in fields:
        raise DataError(path, f'no field "{key}"; fields found: {names_of(fields)}.', line)
    value = fields[key]
    if not isinstance(value, str):
        raise DataError(path, no_text(key, value), line)
    if not value.strip():
        raise DataError(path, f'field "{key}" is empty; wanted text.', line)
    return value.strip()


def no_text(key: str, value: Any) -> str:
    """Return the message about a field that holds something other than text."""
    return f'field "{key}" is {json.dumps(value, default=str)[:40]}; wanted text, in quotes.'
