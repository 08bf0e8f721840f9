"""References to documents in Parquet: what is written is read, whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.data import mined_candidates as module
from multigrain.data.mined_candidates import (
    NO_RANK,
    Mined,
    MinedFile,
    MinedWriter,
    metadata_of,
    mined_writer,
    no_candidates,
    read_mined,
)
from multigrain.errors import DataError


def mined_of(pairs: list[int], judges: tuple[str, ...] = ("embedding", "bm25")) -> Mined:
    """Candidates of these pairs, no two of them alike."""
    count = len(pairs)
    numbers = np.arange(count)
    scores = {judge: ((numbers + place) / 8).astype(np.float32) for place, judge in enumerate(judges)}
    return Mined(
        pair=np.array(sorted(pairs), dtype=np.int32),
        document=(100 + numbers).astype(np.int32),
        grade=(1 + numbers % 4).astype(np.int8),
        method=(numbers % 2).astype(np.int8),
        rank=np.where(numbers % 2, numbers, NO_RANK).astype(np.int32),
        words=(numbers + 0.5).astype(np.float32),
        scores=scores,
        positives={judge: (column + 1).astype(np.float32) for judge, column in scores.items()},
    )


def rows(mined: Mined) -> list[Any]:
    """All columns, with their kinds."""
    columns = {name: getattr(mined, name) for name in ("pair", "document", "grade", "method", "rank", "words")}
    columns |= {f"score {judge}": column for judge, column in mined.scores.items()}
    columns |= {f"positive {judge}": column for judge, column in mined.positives.items()}
    return [(name, column.dtype, column.tolist()) for name, column in columns.items()]


def write(path: Path, *parts: Mined) -> None:
    with mined_writer(path) as writer:
        for part in parts:
            writer.write(part)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    mined = mined_of([0, 0, 2, 7, 7, 7])
    write(tmp_path / "mined.parquet", mined)
    assert rows(read_mined(tmp_path / "mined.parquet")) == rows(mined)
    write(tmp_path / "mined.parquet", mined[:2], mined[2:2], mined[2:])
    assert rows(read_mined(tmp_path / "mined.parquet")) == rows(mined)
    assert MinedFile(tmp_path / "mined.parquet").rows == 6


def test_other_programs_read_names_and_no_codes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "mined.parquet", mined_of([3, 4]))
    assert pq.read_table(tmp_path / "mined.parquet").to_pylist()[0] == {
        "pair": 3,
        "document": 100,
        "grade": 1,
        "method": "embedding",
        "rank": None,
        "words": 0.5,
        "embedding": 0.0,
        "embedding_of_positive": 1.0,
        "bm25": 0.125,
        "bm25_of_positive": 1.125,
    }


@pytest.mark.parametrize("parts", [[], [no_candidates()]])
def test_no_candidates(tmp_path: Path, parts: list[Mined]) -> None:
    write(tmp_path / "mined.parquet", *parts)
    assert rows(read_mined(tmp_path / "mined.parquet")) == rows(no_candidates())
    file = MinedFile(tmp_path / "mined.parquet")
    assert (file.rows, len(file.up_to(0)), len(file.up_to(9))) == (0, 0, 0)


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "mined.parquet"
    assert metadata_of(path) == {}
    for parts in ([], [mined_of([1])], [mined_of([1]), mined_of([2])]):
        with mined_writer(path, {"made from": "abc"}) as writer:
            for part in parts:
                writer.write(part)
        assert metadata_of(path)["made from"] == "abc"
    path.write_bytes(b"something else")
    assert metadata_of(path) == {}


pair_lists = st.lists(st.integers(0, 20), max_size=60)


@settings(max_examples=60)
@given(pair_lists, st.lists(st.integers(1, 9), max_size=8), st.sampled_from([16, 32, 80]))
def test_pairs_are_read_block_by_block(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[int], steps: list[int], at_once: int
) -> None:
    path = tmp_path_factory.mktemp("mined") / "mined.parquet"
    mined = mined_of(pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", at_once)
        write(path, mined[: len(mined) // 3], mined[len(mined) // 3 :])
        file, first = MinedFile(path), 0
        for end in [*np.cumsum(steps).tolist(), 30]:
            expected = mined[(mined.pair >= first) & (mined.pair < end)]
            found = file.up_to(end)
            assert rows(found) == rows(expected)
            assert found.counted_from(first).pair.tolist() == (expected.pair - first).tolist()
            first = end


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mined.parquet"
    with pytest.raises(DataError, match=r"(?s)mined\.parquet.*cannot be read.*synthesize"):
        MinedFile(path)
    write(path, mined_of(list(range(500))))
    whole = path.read_bytes()
    for broken in (b"", b"no parquet", whole[:-20], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"(?s)mined\.parquet.*cannot be read.*synthesize"):
            MinedFile(path)
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])  # zeros in the middle
    with pytest.raises(DataError, match=r"(?s)mined\.parquet.*cannot be read.*synthesize"):
        MinedFile(path).up_to(500)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.filterwarnings("error")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mined.parquet"
    write(path, mined_of([1, 2]))
    old = path.read_bytes()

    def full(self: MinedWriter, mined: Mined) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mined_writer(tmp_path / "other.parquet") as writer:
        writer.write(mined_of([1]))
        monkeypatch.setattr(MinedWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, mined_of([5]))
    assert path.read_bytes() == old
    assert files_of(tmp_path) == ["mined.parquet", "other.parquet"]


PROGRAM = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from multigrain.data.mined_candidates import mined_writer
from tests.data.test_mined_candidates import mined_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with mined_writer(Path(sys.argv[1])) as writer:
    for part in range(40):
        mined = mined_of(list(range(3000)))
        mined.document[:] = np.random.default_rng(part).integers(0, 2**31, len(mined))
        writer.write(mined)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from multigrain.data.mined_candidates import mined_writer
from tests.data.test_mined_candidates import mined_of
with mined_writer(Path(sys.argv[1])) as writer:
    writer.write(mined_of([8, 9]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("program", "said"), [(PROGRAM, "File too large"), (KILLED, "")])
def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path, program: str, said: str) -> None:
    path = tmp_path / "mined.parquet"
    write(path, mined_of([1, 2]))
    old = path.read_bytes()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode != 0
    assert said in result.stderr
    assert path.read_bytes() == old
    assert rows(read_mined(path)) == rows(mined_of([1, 2]))
