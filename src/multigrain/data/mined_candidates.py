"""Mined candidates in Parquet: references to documents of the corpus, with the measurements of mining.

One row for each candidate, sorted by pair:

    pair          number of the pair's line in data/train.jsonl, from 0
    document      number of the document's line in data/corpus.jsonl, from 0
    grade         the grade it was mined for
    method        how it was found: "embedding" or "bm25"
    rank          rank by BM25, from 0; null for the method "embedding"
    words         number of words of the document, see `multigrain.data.words.words_in`
    <judge>       the judge's score of query and document
    <judge>_of_positive   the judge's score of query and positive

The texts stay in the corpus. `Mined` holds such rows in memory, column by column.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from multigrain.errors import DataError
from multigrain.files import atomic_file

METHODS = ("embedding", "bm25")
OF_POSITIVE = "_of_positive"
NO_RANK = -1
ROWS = 2**20
"""Rows of a row group."""
_COLUMNS = {
    "pair": "int32",
    "document": "int32",
    "grade": "int8",
    "method": "int8",
    "rank": "int32",
    "words": "float32",
}


@dataclass(frozen=True)
class Mined:
    """C candidates in ascending order of pair; see the module docstring.

    Attributes:
        pair: (C,).
        document: (C,).
        grade: (C,).
        method: (C,) places in `METHODS`.
        rank: (C,) rank by BM25, or `NO_RANK`.
        words: (C,) number of words of the document.
        scores: judge -> (C,) scores of the documents.
        positives: judge -> (C,) scores of the pairs' positives.
    """

    pair: NDArray[np.int32]
    document: NDArray[np.int32]
    grade: NDArray[np.int8]
    method: NDArray[np.int8]
    rank: NDArray[np.int32]
    words: NDArray[np.float32]
    scores: Mapping[str, NDArray[np.float32]]
    positives: Mapping[str, NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, rows: Any) -> "Mined":
        """Return the rows of a slice, or of an array of numbers or flags."""
        return Mined(
            pair=self.pair[rows],
            document=self.document[rows],
            grade=self.grade[rows],
            method=self.method[rows],
            rank=self.rank[rows],
            words=self.words[rows],
            scores={judge: scores[rows] for judge, scores in self.scores.items()},
            positives={judge: scores[rows] for judge, scores in self.positives.items()},
        )

    def counted_from(self, first: int) -> "Mined":
        """Return the same rows with pairs counted from number `first`."""
        return replace(self, pair=self.pair - np.int32(first))

    def moved(self, first: int, documents: NDArray[np.int64]) -> "Mined":
        """Return rows of one source as rows of the run.

        Args:
            first: number of the source's first pair in the run.
            documents: number in the run's corpus of each document of the source's corpus.
        """
        return replace(
            self, pair=self.pair + np.int32(first), document=documents[self.document].astype(np.int32, copy=False)
        )


def no_candidates(judges: tuple[str, ...] = ("embedding",)) -> Mined:
    """Return zero rows, with the columns of these judges."""
    columns = {name: np.empty(0, kind) for name, kind in _COLUMNS.items()}
    scores = {judge: np.empty(0, np.float32) for judge in judges}
    return Mined(**columns, scores=scores, positives=dict(scores))


@dataclass(frozen=True)
class DroppedMined:
    """Mined candidates that one rule dropped, (D,) each."""

    rule: str
    row: NDArray[np.integer[Any]]
    """Their rows among the mined candidates graded together."""
    value: NDArray[np.float64]
    """The values that broke the rule."""


class MinedWriter:
    """Writes mined candidates to a file; see `mined_writer`."""

    def __init__(self, file: Any, metadata: Mapping[str, str]) -> None:
        self._file, self._metadata = file, metadata
        self._writer: Any = None

    def write(self, mined: Mined) -> None:
        """Append rows; their pairs must follow those written before."""
        table = _table(mined)
        if self._writer is None:
            table = table.replace_schema_metadata(dict(self._metadata))
            self._writer = pq.ParquetWriter(self._file, table.schema, compression="zstd")
        self._writer.write_table(table.replace_schema_metadata(dict(self._metadata)), row_group_size=ROWS)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is None:
            self.write(no_candidates())
        self._writer.close()


@contextmanager
def mined_writer(path: Path, metadata: Mapping[str, str] = {}) -> Iterator[MinedWriter]:
    """Open a writer for the file `path`; readers see either the whole old file or the whole new one.

    Args:
        path: the file.
        metadata: further entries to store, which `metadata_of` reads.
    """
    with atomic_file(path) as file:
        writer = MinedWriter(file, metadata)
        yield writer
        writer.close()


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a file; empty if the file is missing or unreadable."""
    try:
        found = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}
    return {key.decode(): value.decode() for key, value in found.items()}


class MinedFile:
    """Reads candidates pair by pair, with about `ROWS` of them in memory.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._faults_explained():
            self._file = pq.ParquetFile(path)
        self.rows: int = self._file.metadata.num_rows
        self._groups = self._batches()
        self._read = _from_table(self._file.schema_arrow.empty_table())

    def up_to(self, pair: int) -> Mined:
        """Return the candidates, not yet returned, of the pairs before this number."""
        parts = []
        while True:
            end = int(np.searchsorted(self._read.pair, pair))
            parts.append(self._read[:end])
            self._read = self._read[end:]
            if len(self._read) or (following := next(self._groups, None)) is None:
                break
            self._read = following
        return _joined([part for part in parts if len(part)] or parts[-1:])

    def _batches(self) -> Iterator[Mined]:
        with self._faults_explained():
            for batch in self._file.iter_batches(batch_size=ROWS // 16):
                yield _from_table(pa.Table.from_batches([batch]))

    @contextmanager
    def _faults_explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(self._path, f"cannot be read ({error}). Delete it; synthesize recreates it.") from None


def read_mined(path: Path) -> Mined:
    """Return all rows of a file."""
    return _from_table(pq.read_table(path))


def read_mined_of(path: Path, pair: int) -> Mined:
    """Return the candidates of one pair, by its number; skip row groups that cannot contain it.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return _from_table(pq.read_table(path, filters=[("pair", "==", pair)]))
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"cannot be read ({error}). Delete it; synthesize recreates it.") from None


def _table(mined: Mined) -> Any:
    columns = {name: getattr(mined, name) for name in _COLUMNS}
    columns["rank"] = pa.array(mined.rank, mask=mined.rank == NO_RANK)
    columns["method"] = pa.DictionaryArray.from_arrays(pa.array(mined.method), list(METHODS))
    for judge, scores in mined.scores.items():
        columns[judge] = scores
        columns[judge + OF_POSITIVE] = mined.positives[judge]
    return pa.table(columns)


def _from_table(table: Any) -> Mined:
    columns = {name: table[name] for name in _COLUMNS}
    columns["rank"] = columns["rank"].fill_null(NO_RANK)
    columns["method"] = pa.compute.index_in(columns["method"].cast("string"), pa.array(METHODS))
    judges = [name.removesuffix(OF_POSITIVE) for name in table.column_names if name.endswith(OF_POSITIVE)]
    return Mined(
        **{name: column.to_numpy().astype(_COLUMNS[name], copy=False) for name, column in columns.items()},
        scores={judge: table[judge].to_numpy() for judge in judges},
        positives={judge: table[judge + OF_POSITIVE].to_numpy() for judge in judges},
    )


def _joined(parts: list[Mined]) -> Mined:
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    judges = parts[0].scores
    scores = {judge: np.concatenate([part.scores[judge] for part in parts]) for judge in judges}
    positives = {judge: np.concatenate([part.positives[judge] for part in parts]) for judge in judges}
    return Mined(**columns, scores=scores, positives=positives)
