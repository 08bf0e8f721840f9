"""Mined candidates that grading dropped, in Parquet: references to documents, with rule and value.

One row for each candidate, sorted by pair: `pair`, `document`, `grade` and `method` as in
`multigrain.data.mined_candidates`, then

    rule    the rule that dropped it
    value   the value that broke the rule
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

ROWS = 2**16
"""Rows of a row group, which is read as a whole."""
_SCHEMA = pa.schema(
    [
        ("pair", pa.int32()),
        ("document", pa.int32()),
        ("grade", pa.int8()),
        ("method", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float32()),
    ]
)


class DroppedWriter:
    """Writes dropped candidates, `ROWS` at a time; see `dropped_writer`."""

    def __init__(self, writer: Any) -> None:
        self._writer, self._waiting = writer, _SCHEMA.empty_table()

    def write(self, first: int, mined: Mined, dropped: Sequence[DroppedMined]) -> None:
        """Append the dropped rows of `mined`; `first` is added to its pair numbers."""
        if not dropped:
            return
        rows = np.concatenate([each.row for each in dropped])
        order = np.argsort(rows, kind="stable")
        rules = np.repeat(np.array([each.rule for each in dropped]), [len(each.row) for each in dropped])
        of = mined[rows[order]]
        columns = {
            "pair": of.pair + np.int32(first),
            "document": of.document,
            "grade": of.grade,
            "method": np.array(METHODS)[of.method],
            "rule": rules[order],
            "value": np.concatenate([each.value for each in dropped])[order].astype(np.float32),
        }
        self._waiting = pa.concat_tables([self._waiting, pa.table(columns, schema=_SCHEMA)])
        while len(self._waiting) >= ROWS:  # groups of equal length, however many rows come at a time
            self._writer.write_table(self._waiting[:ROWS])
            self._waiting = self._waiting[ROWS:]

    def close(self) -> None:
        """Write the remaining rows."""
        if len(self._waiting):
            self._writer.write_table(self._waiting)


@contextmanager
def dropped_writer(path: Path) -> Iterator[DroppedWriter]:
    """Open a writer for the file `path`; readers see either the whole old file or the whole new one."""
    with atomic_file(path) as file, pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        dropped = DroppedWriter(writer)
        yield dropped
        dropped.close()


def read_dropped(path: Path, pair: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as dictionaries, or only those of one pair.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            if pair is None or _may_hold(file.metadata.row_group(group).column(0).statistics, pair):
                rows = file.read_row_group(group)
                yield from (rows if pair is None else rows.filter(pa.compute.equal(rows["pair"], pair))).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"cannot be read ({error}). Delete it; grade recreates it.") from None


def _may_hold(statistics: Any, pair: int) -> bool:
    return statistics is None or bool(statistics.min <= pair <= statistics.max)
