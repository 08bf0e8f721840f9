"""Read rows of JSON lines, Parquet and Arrow one at a time; `multigrain.data.pair_layouts` interprets them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.data.jsonl import read_objects
from multigrain.data.train_files import COLUMNS, files_below
from multigrain.errors import DataError

BATCH = 256
"""Rows of a Parquet file that are in memory at once."""


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of a row, its number (from 1), and its place for error messages."""

    number: int
    where: str
    fields: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Return the rows of a file, or of the files of a folder, in order.

    Raises:
        DataError: the path cannot be read, is damaged, or is a folder without rows.
    """
    return read_files(files_below(path))


def read_files(files: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of files, in order.

    Raises:
        DataError: a file cannot be read, or is damaged.
    """
    number = 0
    for file in files:
        for where, fields in _read_file(file):
            number += 1
            yield Row(number, where, fields)


def _read_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() in COLUMNS:
        for number, fields in enumerate(_read_columns(path), start=1):
            yield f"{path}, row {number}", fields
    else:
        for line, fields in read_objects(path):
            yield f"{path}, line {line}", fields


def _read_columns(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file or an Arrow stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = path.suffix[1:].lower()
    try:
        with path.open("rb") as file:
            if kind == "parquet":
                batches = pq.ParquetFile(file).iter_batches(batch_size=BATCH)
            else:
                batches = pa.ipc.open_stream(file)
            for batch in batches:
                yield from batch.to_pylist()
    except OSError as error:
        fault = error.strerror or str(error)
        raise DataError(path, f"cannot be read: {fault}. Give a complete {kind} file.") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(path, f"is not a complete {kind} file ({error}).") from None
