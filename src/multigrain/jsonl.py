"""JSON lines: records to files and back, with file and line in every complaint."""

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from multigrain.errors import DataError
from multigrain.records import Candidate, Document, GradedTuple, Pair, Record, to_json, tuple_from_json


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each line of a `.jsonl` or `.jsonl.gz` file.

    Raises:
        DataError: the file is missing or not UTF-8, or a line is not a JSON object.
    """
    for number, line in enumerate(_lines(path), start=1):
        yield number, _object(line, path, number)


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file that multigrain wrote, one by one."""
    return (Pair(**fields) for _, fields in read_objects(path))


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a file that multigrain wrote, one by one."""
    return (Document(**fields) for _, fields in read_objects(path))


def read_candidates(path: Path) -> Iterator[Candidate]:
    """The candidates of a file that multigrain wrote, one by one."""
    return (Candidate(**fields) for _, fields in read_objects(path))


def read_tuples(path: Path) -> Iterator[GradedTuple]:
    """The graded tuples of a file that multigrain wrote, one by one."""
    for line, fields in read_objects(path):
        try:
            yield tuple_from_json(fields)
        except KeyError as error:
            raise DataError(
                path, f"is no graded tuple (no field {error}). Make the file again by grade.", line
            ) from None
        except (TypeError, ValueError) as error:
            found = str(error).replace("GradedTuple.__init__()", "it").replace("Negative.__init__()", "a negative")
            raise DataError(path, f"is no graded tuple ({found}). Make the file again by grade.", line) from None


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write one record a line, atomically; return how many."""
    return write_objects(path, (to_json(record) for record in records))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(path, f"is not a whole gzip file ({error}).") from None
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}. Give the path of a JSON-lines file.") from None


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            path, f"not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8.", number
        ) from None
    if not text.strip():
        raise DataError(path, "empty line; wanted one JSON object. Delete the line.", number)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(path, f"not JSON ({error}); wanted one JSON object a line.", number) from None
    if not isinstance(value, dict):
        raise DataError(path, f"found a JSON {type(value).__name__}; wanted an object.", number)
    if "\\ud" in text.casefold():  # half surrogates, which UTF-8 cannot hold, become question marks
        value = json.loads(to_line(value))
    fields: dict[str, Any] = value
    return fields


def text_field(fields: dict[str, Any], key: str, path: Path, line: int) -> str:
    """The field as non-empty text.

    Raises:
        DataError: the field is missing, not text, or blank.
    """
    if key not in fields:
        found = ", ".join(f'"{name}"' for name in fields) or "none"
        raise DataError(path, f'no field "{key}"; fields found: {found}.', line)
    value = fields[key]
    if not isinstance(value, str):
        raise DataError(path, no_text(key, value), line)
    if not value.strip():
        raise DataError(path, f'field "{key}" is empty; wanted text.', line)
    return value.strip()


def no_text(key: str, value: Any) -> str:
    """What is said of a field that holds something else than text."""
    return f'field "{key}" is {json.dumps(value, default=str)[:40]}; wanted text, in quotes.'


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, of which a reader sees the old content or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name, or whose files take their places, when all of it is there."""
    out = out.resolve()
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if not out.exists():
            part.rename(out)
            return
        for path in [path for path in part.rglob("*") if path.is_file()]:
            place = out / path.relative_to(part)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file at once."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_objects(path: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Write one object a line, atomically; return how many."""
    count = 0
    with atomic_file(path) as file:
        for fields in objects:
            file.write(to_line(fields))
            count += 1
    return count


def to_line(fields: dict[str, Any]) -> bytes:
    """One object as one line."""
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
