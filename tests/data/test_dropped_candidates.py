"""References that grading has dropped, in Parquet, with rule and value."""

from pathlib import Path

import numpy as np
import pytest

from multigrain.data.dropped_candidates import dropped_writer, read_dropped
from multigrain.data.mined_candidates import DroppedMined
from multigrain.errors import DataError
from tests.data.test_mined_candidates import mined_of

FIRST = [
    DroppedMined("surplus", np.array([3, 0]), np.array([4.0, 1.0])),
    DroppedMined("order", np.array([2]), np.array([0.5])),
]
SECOND = [DroppedMined("a new rule", np.array([1]), np.array([2.0]))]


def write(path: Path) -> None:
    """Of two blocks of pairs, the second of which begins at the pair 10."""
    with dropped_writer(path) as writer:
        writer.write(0, mined_of([0, 1, 1, 5]), FIRST)
        writer.write(7, mined_of([0]), [])
        writer.write(10, mined_of([0, 3]), SECOND)


def test_what_is_written_is_read_by_pair(tmp_path: Path) -> None:
    write(tmp_path / "dropped.parquet")
    found = list(read_dropped(tmp_path / "dropped.parquet"))
    assert found == [
        {"pair": 0, "document": 100, "grade": 1, "method": "embedding", "rule": "surplus", "value": 1.0},
        {"pair": 1, "document": 102, "grade": 3, "method": "embedding", "rule": "order", "value": 0.5},
        {"pair": 5, "document": 103, "grade": 4, "method": "bm25", "rule": "surplus", "value": 4.0},
        {"pair": 13, "document": 101, "grade": 2, "method": "bm25", "rule": "a new rule", "value": 2.0},
    ]
    for pair in range(15):
        assert list(read_dropped(tmp_path / "dropped.parquet", pair)) == [row for row in found if row["pair"] == pair]


def test_nothing_was_dropped(tmp_path: Path) -> None:
    with dropped_writer(tmp_path / "dropped.parquet"):
        pass
    assert list(read_dropped(tmp_path / "dropped.parquet")) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dropped.parquet"
    with pytest.raises(DataError, match=r"dropped\.parquet.*cannot be read.*grade"):
        list(read_dropped(path))
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"dropped\.parquet.*cannot be read.*grade"):
        list(read_dropped(path))


@pytest.mark.filterwarnings("error")
def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "dropped.parquet"
    write(path)
    old = path.read_bytes()

    def fail() -> None:
        with dropped_writer(path) as writer:
            writer.write(0, mined_of([0, 1]), SECOND)
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert path.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == ["dropped.parquet"]
