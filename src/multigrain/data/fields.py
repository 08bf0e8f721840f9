"""Read and check the fields of a row: texts, lists of texts, passages, labels, ids."""

import json
from dataclasses import dataclass
from typing import Any, get_args

from multigrain.config import one_line
from multigrain.data.field_checks import is_absent, names_of, no_text, optional_text, whole
from multigrain.data.row_files import Row
from multigrain.errors import DataError
from multigrain.records import GRADES, Source, encodable

GIVEN_GRADE = GRADES[-1]
"""Grade of a given negative until it is judged: people keep the hard ones."""
ID_NAMES = ("id", "_id", "query_id", "docid")

BY_ROWS = 'wanted one object per row, as pandas writes with to_json(FILE, orient="records", lines=True).'


@dataclass(frozen=True, slots=True)
class Given:
    """A negative given in a file. Its text may be blank; blank ones are left out when pairs are built."""

    text: str
    grade: int = GIVEN_GRADE
    source: Source = "mined"


def text_of(row: Row, name: str, value: Any) -> str:
    """Return the value of a field, or of an item of it, as non-blank text.

    Raises:
        DataError: the value is blank or not text, or the row has no such field.
    """
    if name not in row.fields:
        raise DataError(row.where, f'no field "{name}"; fields found: {names_of(row.fields)}.')
    if not isinstance(value, str):
        raise DataError(row.where, no_text(name, value))
    if not value.strip():
        raise DataError(row.where, f'field "{name}" is empty; wanted text.')
    return encodable(value.strip())


def refuse_columns(row: Row, name: str) -> None:
    """Refuse a whole table, written column by column, in place of a row.

    Raises:
        DataError: the field holds many values instead of one text.
    """
    if isinstance(row.fields.get(name), list | dict):
        raise DataError(row.where, f'field "{name}" holds many values, as in a table by columns; {BY_ROWS}')


def texts_of(row: Row, name: str) -> list[str]:
    """Return the text or texts of a field as a list."""
    value = row.fields.get(name)
    if value == []:
        raise DataError(row.where, f'field "{name}" is empty; wanted text.')
    return [text_of(row, name, item) for item in (value if isinstance(value, list) else [value])]


def negatives_of(row: Row, name: str) -> list[Given]:
    """Return the negatives of a field."""
    value = row.fields.get(name)
    if is_absent(value):
        return []
    return [_negative(row, name, item) for item in (value if isinstance(value, list) else [value])]


def _negative(row: Row, name: str, item: Any) -> Given:
    if not isinstance(item, dict):
        return Given(text_or_blank(row, name, item))
    grade: Any = GIVEN_GRADE if is_absent(item.get("grade")) else item["grade"]
    source: Any = optional_text(item, "source", row.where) or "mined"
    if isinstance(grade, bool) or grade not in GRADES:
        raise DataError(row.where, f'field "{name}" holds the grade {grade!r}; wanted 1 (easy) to {GRADES[-1]}.')
    if source not in get_args(Source):
        wanted = " or ".join(get_args(Source))
        raise DataError(row.where, f'field "{name}" holds the source {source!r}; wanted {wanted}.')
    text = text_or_blank(row, name, item["text"]) if "text" in item else text_of(row, name, None)
    return Given(text, int(grade), source)


def text_or_blank(row: Row, name: str, value: Any) -> str:
    """Return the text as `text_of` does, or an empty text if the field is empty."""
    is_blank = is_absent(value) or (isinstance(value, str) and not value.strip())
    return "" if is_blank else text_of(row, name, value)


def passages_of(row: Row, name: str) -> list[tuple[str | None, str]]:
    """Return (document id, title and text) of each passage; blank if the passage has no text."""
    passages = row.fields.get(name)
    if is_absent(passages):
        return []
    if not isinstance(passages, list) or not all(isinstance(passage, dict) for passage in passages):
        raise DataError(row.where, f'field "{name}" is not a list of passages; wanted [{{"docid", "title", "text"}}].')
    return [(_named(row, "docid", passage.get("docid")), _text_of_passage(row, passage)) for passage in passages]


def _text_of_passage(row: Row, passage: dict[str, Any]) -> str:
    title = optional_text(passage, "title", row.where)
    text = optional_text(passage, "text", row.where)
    return "" if is_absent(passage.get("text")) else encodable(titled(title, text))


def titled(title: str, text: str) -> str:
    """Return the title followed by the text, the form that is embedded."""
    return f"{title} {text}".strip()


def labels_of(row: Row, count: int) -> list[bool]:
    """Return whether each of the texts is a positive."""
    name = next((name for name in ("labels", "label", "scores") if name in row.fields), "label")
    if name == "scores":
        return [index == 0 for index in range(count)]
    value = row.fields.get(name)
    labels = value if isinstance(value, list) else [value]
    if wrong := [label for label in labels if label not in (0, 1)]:
        wanted = "wanted 1 (positive) or 0 (negative). If it names a class of texts, rename the field to group."
        raise DataError(row.where, f'field "{name}" holds {wrong[0]!r}; {wanted}')
    if len(labels) != count:
        raise DataError(row.where, f"{count} texts and {len(labels)} labels; wanted a label for each text.")
    return [bool(label) for label in labels]


def has_empty_label(fields: dict[str, Any]) -> bool:
    """Return whether the row has a label field that is empty."""
    value = _label(fields)
    is_empty = is_absent(value) or (isinstance(value, str) and not value.strip())
    return is_empty and bool(fields.keys() & {"label", "labels"})


def is_named(fields: dict[str, Any]) -> bool:
    """Return whether the label names a class, such as an intent. It is then a group; a number may be a score."""
    value = _label(fields)
    return isinstance(value, str) and bool(value.strip()) and not _is_number(value)


def _label(fields: dict[str, Any]) -> Any:
    return fields.get("label", fields.get("labels"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def group_of(row: Row) -> str | None:
    """Return the group, from its own field or from a label that names a class; None if the row has none."""
    named = _label(row.fields) if is_named(row.fields) else None
    value = whole(row.fields.get("group", named))
    if is_absent(value):
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(row.where, no_text("group", value))
    return encodable(str(value)).strip() or None


def id_of(row: Row) -> str | None:
    """Return the id, from one of `ID_NAMES`, or None if the row has none (its number is then the id)."""
    for name in ID_NAMES:
        id = row.fields.get(name)
        if not is_absent(id):
            return _named(row, name, id)
    return None


def _named(row: Row, name: str, id: Any) -> str | None:
    if is_absent(id):
        return None
    id = whole(id)
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        found = json.dumps(id, default=str)[:40]
        raise DataError(row.where, f'field "{name}" is {found}; wanted a text or a whole number.')
    return encodable(str(id))


def instruction_of(row: Row, name: str) -> str | None:
    """Return the instruction of the row's query, or None if the row has none.

    Raises:
        DataError: it is blank, or has line breaks.
    """
    text = optional_of(row, name)
    try:
        return text if text is None else one_line(text)
    except ValueError as error:
        advice = "Put it on one line, or leave the field out."
        raise DataError(row.where, f'field "{name}": {error}. {advice}') from None


def optional_of(row: Row, name: str) -> str | None:
    """Return the field as text, or None if the row has none."""
    text = optional_text(row.fields, name, row.where)
    return encodable(text) if text else None
