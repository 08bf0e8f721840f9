"""Mined candidates that grading has dropped: references to documents, with rule and value, in Parquet.

One row a candidate, by pair: `pair`, `document`, `grade` and `method` as in `multigrain.data.mined_candidates`, then

    rule    why it was dropped
    value   what broke the rule
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multigrain.data.mined_candidates import METHODS, DroppedMined, Mined
from multigrain.errors import DataError
from multigrain.files import atomic_file

_SCHEMA = pa.schema(
    [
        ("pair", pa.int32()),
        ("document", pa.int32()),
        ("grade", pa.int8()),
        ("method", pa.dictionary(pa.int8(), pa.string())),
        ("rule", pa.dictionary(pa.int8(), pa.string())),
        ("value", pa.float32()),
    ]
)


class DroppedWriter:
    """Writes dropped candidates; see `dropped_writer`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, first: int, mined: Mined, dropped: Sequence[DroppedMined]) -> None:
        """Append the rows of `mined` that were dropped; `first` is the number of the pair that its pairs count from."""
        if not dropped:
            return
        rows = np.concatenate([each.row for each in dropped])
        order = np.argsort(rows, kind="stable")
        rules = sorted({each.rule for each in dropped})
        rule = np.repeat([rules.index(each.rule) for each in dropped], [len(each.row) for each in dropped])
        values = np.concatenate([each.value for each in dropped])
        of = mined[rows[order]]
        columns = [
            of.pair + np.int32(first),
            of.document,
            of.grade,
            pa.DictionaryArray.from_arrays(pa.array(of.method), list(METHODS)),
            pa.DictionaryArray.from_arrays(pa.array(rule[order].astype(np.int8)), rules),
            values[order].astype(np.float32),
        ]
        self._writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=_SCHEMA))


@contextmanager
def dropped_writer(path: Path) -> Iterator[DroppedWriter]:
    """Give a writer of the file `path`; a reader sees all of the old file or all of the new one."""
    with atomic_file(path) as file, pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        yield DroppedWriter(writer)


def read_dropped(path: Path, pair: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, or those of one pair, as dictionaries.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            if pair is None or _may_hold(file.metadata.row_group(group).column(0).statistics, pair):
                rows = file.read_row_group(group).to_pylist()
                yield from (row for row in rows if pair is None or row["pair"] == pair)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"cannot be read ({error}). Make it again by grade.") from None


def _may_hold(statistics: Any, pair: int) -> bool:
    return statistics is None or bool(statistics.min <= pair <= statistics.max)
