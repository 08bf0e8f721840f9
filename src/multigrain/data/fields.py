"""The fields of a row, each checked: texts, lists of texts, passages, labels, ids."""

import math
from dataclasses import dataclass
from typing import Any, get_args

from multigrain.data.rows import Row
from multigrain.errors import DataError
from multigrain.jsonl import no_text
from multigrain.records import GRADES, Source, encodable

GIVEN_GRADE = GRADES[-1]
"""What a given negative counts as before it is judged: people keep the hard ones."""
ID_NAMES = ("id", "_id", "query_id", "docid")


@dataclass(frozen=True, slots=True)
class Given:
    """A text that a file gives as a negative."""

    text: str
    grade: int = GIVEN_GRADE
    source: Source = "mined"


def text_of(row: Row, name: str, value: Any) -> str:
    """What stands in a field, or in an item of it, as text that is not blank.

    Raises:
        DataError: it is anything else, or the row has no such field.
    """
    if name not in row.fields:
        found = ", ".join(f'"{field}"' for field in row.fields) or "none"
        raise DataError(row.where, f'no field "{name}"; fields found: {found}.')
    if not isinstance(value, str):
        raise DataError(row.where, no_text(name, value))
    if not value.strip():
        raise DataError(row.where, f'field "{name}" is empty; wanted text.')
    return encodable(value.strip())


def texts_of(row: Row, name: str) -> list[str]:
    """The text, or the texts, of a field."""
    value = row.fields.get(name)
    if value == []:
        raise DataError(row.where, f'field "{name}" is empty; wanted text.')
    return [text_of(row, name, item) for item in (value if isinstance(value, list) else [value])]


def negatives_of(row: Row, name: str) -> list[Given]:
    """The negatives of a field; nothing and blank texts are none."""
    value = row.fields.get(name)
    items = value if isinstance(value, list) else [value]
    return [_negative(row, name, item) for item in items if not _is_blank(item)]


def _is_blank(item: Any) -> bool:
    return item is None or (isinstance(item, str) and not item.strip())


def _negative(row: Row, name: str, item: Any) -> Given:
    if not isinstance(item, dict):
        return Given(text_of(row, name, item))
    grade: Any = item.get("grade") or GIVEN_GRADE
    source: Any = item.get("source") or "mined"
    if grade not in GRADES:
        raise DataError(row.where, f'field "{name}" holds the grade {grade!r}; wanted 1 (easy) to {GRADES[-1]}.')
    if source not in get_args(Source):
        wanted = " or ".join(get_args(Source))
        raise DataError(row.where, f'field "{name}" holds the source {source!r}; wanted {wanted}.')
    return Given(text_of(row, name, item.get("text")), int(grade), source)


def passages_of(row: Row, name: str) -> list[tuple[str | None, str]]:
    """Document id and text of each passage; a title is put before the text."""
    passages = row.fields.get(name)
    if not isinstance(passages, list) or not all(isinstance(passage, dict) for passage in passages):
        raise DataError(row.where, f'field "{name}" is no list of passages; wanted [{{"docid", "title", "text"}}].')
    found = []
    for passage in passages:
        text = f"{passage.get('title') or ''} {passage.get('text') or ''}"
        id = passage.get("docid")
        found.append((None if id is None else str(id), text_of(row, name, text)))
    return found


def labels_of(row: Row, count: int) -> list[bool]:
    """For each of the texts whether it is a positive."""
    name = next((name for name in ("labels", "label", "scores") if name in row.fields), "label")
    if name == "scores":
        return [index == 0 for index in range(count)]
    value = row.fields.get(name)
    labels = value if isinstance(value, list) else [value]
    if wrong := [label for label in labels if label not in (0, 1)]:
        wanted = "wanted 1 (positive) or 0 (negative). If it names a class of texts, call the field group."
        raise DataError(row.where, f'field "{name}" holds {wrong[0]!r}; {wanted}')
    if len(labels) != count:
        raise DataError(row.where, f"{count} texts and {len(labels)} labels; wanted a label for each text.")
    return [bool(label) for label in labels]


def is_named(fields: dict[str, Any]) -> bool:
    """Whether the label is the name of a class, such as an intent, and so a group; a number may be a score."""
    value = fields.get("label", fields.get("labels"))
    return isinstance(value, str) and bool(value.strip()) and not _is_number(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def group_of(row: Row) -> str | None:
    """The group under its own name, or as a label that is a name; None where the row has none."""
    named = row.fields.get("label", row.fields.get("labels")) if is_named(row.fields) else None
    value = row.fields.get("group", named)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(row.where, no_text("group", value))
    return encodable(str(value)).strip() or None


def id_of(row: Row) -> str | None:
    """The id under one of its names, or None where the row has none (it is then named by its number)."""
    id = next((row.fields[name] for name in ID_NAMES if row.fields.get(name) is not None), None)
    if id is not None and (not isinstance(id, str | int) or isinstance(id, bool) or id == ""):
        raise DataError(row.where, 'field "id" is empty or no text; wanted a text or a whole number.')
    return None if id is None else encodable(str(id))


def optional_of(row: Row, name: str) -> str | None:
    """The field as text, or None where the row has none."""
    value = row.fields.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(row.where, no_text(name, value))
    return encodable(value) if value else None
