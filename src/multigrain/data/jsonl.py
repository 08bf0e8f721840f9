"""Read and write JSON lines; every error message names file and line."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from multigrain.data.field_checks import is_absent
from multigrain.errors import DataError
from multigrain.files import to_line, write_objects
from multigrain.records import Candidate, Document, GradedTuple, Pair, Record, to_json, tuple_from_json

LARGEST_WHOLE = 2**30
"""Largest file, in bytes, that is read as a whole because it is not JSON lines."""
TABLES = {
    ".csv": "read_csv('{}')",
    ".tsv": r"read_csv('{}', sep='\t')",
    ".xlsx": "read_excel('{}')",
    ".xls": "read_excel('{}')",
    ".ods": "read_excel('{}')",
    ".feather": "read_feather('{}')",
    ".parquet": "read_parquet('{}')",
}
"""How pandas reads files that are not JSON, by suffix."""
JSON_LINES = 'Give a file of JSON lines: one object per line, such as {"query": "...", "positive": "..."}.'
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BETWEEN = re.compile(r"[\s,]*")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each object of a file, gzipped if its name ends in `.gz`.

    JSON lines are read one at a time; blank lines are skipped. A file with an array of objects, or with objects that
    span several lines, is read as a whole.

    Raises:
        DataError: the file is missing, not UTF-8 or not JSON, or holds something other than objects.
    """
    if _head(path).startswith(b"["):
        yield from _spread(path)
        return
    is_first = True
    for number, line in enumerate(_lines(path), start=1):
        text = _decoded(line, path, number)
        if not text.strip():
            continue
        if is_first and not _is_json(text):
            yield from _spread(path)
            return
        is_first = False
        yield number, _object(text, path, number)


def read_objects_with(path: Path, field: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) where the field equals the text, from a file that multigrain wrote.

    Lines without the text are not parsed.

    Raises:
        DataError: see `read_objects`.
    """
    wanted = to_line({field: text}).strip()[1:-1]
    for number, line in enumerate(_lines(path), start=1):
        if wanted in line and (found := _object(_decoded(line, path, number), path, number)).get(field) == text:
            yield number, found


def read_pairs(path: Path) -> Iterator[Pair]:
    """Yield the pairs of a file that multigrain wrote, one by one."""
    return (Pair(**fields) for _, fields in read_objects(path))


class PairFile:
    """The pairs of a file that multigrain wrote, or those of one source; each iteration reads it from its start."""

    def __init__(self, path: Path, source: str | None = None) -> None:
        self._path, self._source = path, source

    def __iter__(self) -> Iterator[Pair]:
        pairs = read_pairs(self._path)
        return pairs if self._source is None else (pair for pair in pairs if pair.source == self._source)


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a file that multigrain wrote, one by one."""
    return (Document(**fields) for _, fields in read_objects(path))


def read_candidates(path: Path) -> Iterator[Candidate]:
    """Yield the candidates of a file that multigrain wrote, one by one."""
    return (Candidate(**fields) for _, fields in read_objects(path))


def read_tuples(path: Path) -> Iterator[GradedTuple]:
    """Yield the graded tuples of a file that multigrain wrote, one by one.

    Raises:
        DataError: a line is not a graded tuple; see also `read_objects`.
    """
    for line, fields in read_objects(path):
        try:
            yield tuple_from_json({key: value for key, value in fields.items() if not is_absent(value)})
        except KeyError as error:
            raise DataError(
                path, f"is not a graded tuple (no field {error}). Run the stage grade again.", line
            ) from None
        except (TypeError, ValueError) as error:
            found = str(error).replace("GradedTuple.__init__()", "it").replace("Negative.__init__()", "a negative")
            raise DataError(path, f"is not a graded tuple ({found}). Run the stage grade again.", line) from None


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write one record per line, atomically; return the number of records."""
    return write_objects(path, (to_json(record) for record in records))


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, without leading white space.

    Raises:
        DataError: the file is a table, or does not begin like JSON.
    """
    with _opened(path) as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind in TABLES:
        out = path.with_name(path.name.removesuffix(".gz")).with_suffix(".jsonl")
        table = f"pandas.{TABLES[kind].format(_quotable(path))}"
        convert = f"python -c \"import pandas; {table}.to_json('{_quotable(out)}', orient='records', lines=True)\""
        raise DataError(path, f"a {kind} file; wanted JSON lines. Convert it: {convert}")
    if head[:1] not in (b"", b"[", b"{") and head[:2] not in UTF_16:
        found = head.splitlines()[0][:40].decode(errors="replace")
        raise DataError(path, f"begins with {found!r}, which is not a JSON object. {JSON_LINES}")
    return head


def _quotable(path: Path) -> str:
    """Return the path, escaped for single quotes of Python within double quotes of the shell."""
    return re.sub("""["'$`]""", r"\\\g<0>", path.as_posix())


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        yield from file


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(path, f"is not a complete gzip file ({error}).") from None
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}. Give the path of a JSON-lines file.") from None


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            path, f"not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8.", number
        ) from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _spread(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (first line, object) for the objects of an array, or for objects that span several lines."""
    text = _whole(path)
    place = _after(text, 0)
    is_array = text[place] == "["
    decoder = json.JSONDecoder()
    place, line, counted = _after(text, place + is_array), 1, 0
    while place < len(text) and not (is_array and text[place] == "]"):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise DataError(path, _no_json(error), getattr(error, "lineno", line)) from None
        if is_array and not isinstance(value, dict):  # perhaps each line is an array
            fault = f"found a JSON array that holds {type(value).__name__}; wanted objects. {JSON_LINES}"
            raise DataError(path, fault, line)
        yield line, _fields(value, text[counted:place], path, line)
        place = _after(text, place)
    if is_array and text[place:].strip() != "]":
        fault = "something follows the JSON array" if place < len(text) else "the JSON array has no end"
        raise DataError(path, f"{fault}. Save the file again.", line)


def _whole(path: Path) -> str:
    with _opened(path) as file:
        content = file.read(LARGEST_WHOLE + 1)
    if len(content) > LARGEST_WHOLE:
        size = f"{LARGEST_WHOLE / 2**30:g} GiB"
        raise DataError(path, f"not JSON lines, and larger than {size}, the most that is read as a whole. {JSON_LINES}")
    lines = enumerate(content.splitlines(keepends=True), start=1)
    return "".join(_decoded(line, path, number) for number, line in lines)


def _after(text: str, place: int) -> int:
    """Return where the next value begins."""
    found = _BETWEEN.match(text, place)
    assert found is not None  # the pattern also matches the empty string
    return found.end()


def _object(text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(path, _no_json(error), number) from None
    return _fields(value, text, path, number)


def _no_json(error: ValueError) -> str:
    fault = f"{error.msg}: column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return f"not JSON ({fault}); wanted one JSON object per line."


def _fields(value: Any, text: str, path: Path, number: int) -> dict[str, Any]:
    """Return the value if it is an object; `text` is its JSON text."""
    if not isinstance(value, dict):
        raise DataError(path, f"found a JSON {type(value).__name__}; wanted an object.", number)
    if "\\ud" in text.casefold():  # lone surrogates, which UTF-8 cannot encode, become question marks
        value = json.loads(to_line(value))
    fields: dict[str, Any] = value
    return fields
