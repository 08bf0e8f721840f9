"""Rows of JSON lines, parquet and Arrow, one at a time: what a row means is for `multigrain.data.forms`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.errors import DataError
from multigrain.jsonl import read_objects

BATCH = 256
"""Rows of a parquet file that are in memory at once."""
TRAIN = "train"


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of a row, its number from 1 on, and the place that a complaint about it names."""

    number: int
    where: str
    fields: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, or of the files of a folder, in order.

    Raises:
        DataError: the path cannot be read, is damaged, or is a folder without rows.
    """
    number = 0
    for file in files_below(path):
        for where, fields in _read_file(file):
            number += 1
            yield Row(number, where, fields)


def files_below(path: Path) -> list[Path]:
    """The files that hold the rows: the path itself, or what the `datasets` library keeps in that folder.

    Of a folder with several splits it is the training split.

    Raises:
        DataError: the folder holds no rows, or its splits and no training split.
    """
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        return files_below(_train_folder(path))
    if (path / "state.json").is_file():
        return _arrow_files(path)
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError(path, f"a folder without rows; {_advice(path)}")
    return [file for file in files if _is_train(file.relative_to(path))] or files


def _is_train(file: Path) -> bool:
    return any(part == TRAIN or part.startswith((f"{TRAIN}-", f"{TRAIN}.")) for part in file.parts)


def _train_folder(path: Path) -> Path:
    """The folder of the training split, or of the only split."""
    splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
    if TRAIN not in splits and len(splits) != 1:
        raise DataError(path, f"splits found: {', '.join(splits) or 'none'}; give the folder of one of them.")
    return path / (TRAIN if TRAIN in splits else splits[0])


def _arrow_files(path: Path) -> list[Path]:
    """The files in the order in which `Dataset.save_to_disk` wrote them."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return [path / file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(path / "state.json", f"damaged ({error!r}). Save the dataset again.") from None


def _advice(path: Path) -> str:
    if (path / "qrels").is_dir():
        splits = ", ".join(sorted(file.stem for file in (path / "qrels").glob("*.tsv")))
        return f"it looks like a BEIR folder: write beir:{path}:SPLIT (splits found: {splits or 'none'})."
    return "wanted parquet files, or a dataset that Dataset.save_to_disk wrote. For JSON lines name the file."


def _read_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix in (".parquet", ".arrow"):
        for number, fields in enumerate(_read_columns(path), start=1):
            yield f"{path}, row {number}", fields
    else:
        for line, fields in read_objects(path):
            yield f"{path}, line {line}", fields


def _read_columns(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file or an Arrow stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = path.suffix[1:]
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
        raise DataError(path, f"cannot be read: {fault}. Give a whole {kind} file.") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(path, f"is not a whole {kind} file ({error}).") from None
