"""Shards on an engine that does them late, from copies, and may fail: the results are those of one process."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multigrain.config import Config, load_config
from multigrain.model import encode
from multigrain.model.encode import CachedEncoder
from multigrain.model.engine import LOCAL, Engine, ShardFailed
from multigrain.model.load import load_base
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.stages import grade as stage
from multigrain.retrieval import mine, mining_shards

FILES = (
    "synthesis/mined.parquet", "synthesis/candidates.jsonl",
    "grading/tuples.jsonl", "grading/dropped.jsonl", "grading/dropped.parquet", "grading/report.json",
)  # fmt: skip


class Late:
    """Does a shard when its result is asked for, with copies of work and shard, as another process would."""

    def __init__(self, ahead: int = 3, fails: Callable[[str], bool] = lambda name: False) -> None:
        self.ahead, self._fails = ahead, fails
        self.names: list[str] = []

    def submit(self, work: Callable[[Any], Any], shard: Any, name: str) -> Callable[[], Any]:
        self.names.append(name)
        sent = pickle.dumps(work), pickle.dumps(shard)

        def wait() -> Any:
            if self._fails(name):
                raise ShardFailed(f"{name}: failed")
            own_work, own_shard = map(pickle.loads, sent)
            return own_work(own_shard)

        return wait


class _Loads:
    """Loads the model; picklable."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __call__(self) -> Any:
        return load_base(self._folder)


def shrink(put: Callable[[object, str, int], None] = setattr) -> None:
    """Make many portions, blocks and shards of few texts."""
    sizes = ((encode, "PORTION", 8), (mine, "FIRST_BLOCK", 2), (mine, "BLOCK", 6), (mine, "WAVE", 16))
    for place, name, size in (*sizes, (mining_shards, "SHARD", 2), (stage, "BLOCK", 5)):
        put(place, name, size)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many portions, blocks and shards of few texts."""
    shrink(monkeypatch.setattr)


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def graded(run_toml: Path, output: Path, engine: Engine, *overrides: str, force: bool = False) -> Config:
    """Run the stages that have shards, and those before them."""
    config = load_config(
        run_toml, [f"output='{output}'", "mining.methods=['embedding', 'bm25']", "mining.per_grade=2", *overrides]
    )

    class Started:
        def __enter__(self) -> Engine:
            return engine

        def __exit__(self, *_: object) -> None: ...

    run_stages(config, ["data", "synthesize", "grade"], force, start=Started)
    return config


TEXTS = [" ".join(["the cat", *["runs"] * (i % 7), "near"] * (1 + i % 5)) + f" {i // 2}" for i in range(60)]


@pytest.mark.parametrize("ahead", [1, 3, 50])
@pytest.mark.usefixtures("small")
def test_portions_are_the_same_ones_however_many_are_in_progress(
    tiny_encoder: Path, tmp_path: Path, ahead: int
) -> None:
    """Overlapping requests, which a wrong plan would cut into other portions, with other last bits."""
    calls = [TEXTS[:20], TEXTS[5:31], TEXTS[30:35] + TEXTS[:3], TEXTS[40:], TEXTS]
    here = CachedEncoder(_Loads(tiny_encoder), "m", tmp_path / "here.bin", "x", {})
    there = CachedEncoder(_Loads(tiny_encoder), "m", tmp_path / "there.bin", "x", {}, engine=Late(ahead))
    expected = [here(texts, "document") for texts in calls]
    for texts in calls[:4]:
        there.request(texts, "document")
    for texts, vectors in zip(calls, expected, strict=True):
        assert np.array_equal(there(texts, "document"), vectors)
    assert (tmp_path / "there.bin").read_bytes() == (tmp_path / "here.bin").read_bytes()
    assert np.array_equal(there.stored(TEXTS[::3], "document").read(), here(TEXTS[::3], "document"))


@pytest.mark.usefixtures("small")
def test_a_portion_that_fails_is_named_the_rest_is_kept_and_the_next_process_makes_it_again(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    expected = CachedEncoder(_Loads(tiny_encoder), "m", tmp_path / "here.bin", "x", {})(TEXTS, "document")
    failing = Late(3, lambda name: "portion 2 " in name)
    embed = CachedEncoder(_Loads(tiny_encoder), "m", tmp_path / "there.bin", "judging", {}, engine=failing)
    with pytest.raises(ShardFailed, match=r"judging, portion 2 .*\n.*The same command resumes") as caught:
        embed(TEXTS, "document")
    assert "portion 3" not in str(caught.value)
    again = Late(3)
    embed = CachedEncoder(_Loads(tiny_encoder), "m", tmp_path / "there.bin", "judging", {}, engine=again)
    assert np.array_equal(embed(TEXTS, "document"), expected)
    assert len(again.names) == 1


@pytest.mark.usefixtures("small")
def test_a_run_has_the_same_files(run_toml: Path, tmp_path: Path) -> None:
    late = Late(4)
    expected = graded(run_toml, tmp_path / "here", LOCAL)
    found = graded(run_toml, tmp_path / "there", late)
    assert files_of(found.folder) == files_of(expected.folder)
    assert sum("documents" in name for name in late.names) > 4
    assert any("judging, portion" in name for name in late.names)
    assert not list(found.folder.rglob("*.npz"))


@pytest.mark.usefixtures("small")
def test_a_resumed_run_takes_the_shards_that_are_done(run_toml: Path, tmp_path: Path) -> None:
    expected = graded(run_toml, tmp_path / "here", LOCAL)
    first = Late(4, lambda name: "wave 2, " in name and "documents 1 " not in name)
    with pytest.raises(ShardFailed, match=r"mining, wave 2, documents \d+ to \d+: failed") as caught:
        graded(run_toml, tmp_path / "there", first)
    again = Late(4)
    found = graded(run_toml, tmp_path / "there", again)
    assert files_of(found.folder) == files_of(expected.folder)
    mined = [name for name in again.names if name.startswith("mining")]
    assert len(mined) == str(caught.value).count("wave 2") > 1
    assert not any("wave 1" in name or "documents 1 " in name for name in mined)


@pytest.mark.usefixtures("small")
def test_shards_made_from_other_inputs_are_not_taken(run_toml: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardFailed):
        graded(run_toml, tmp_path / "there", Late(4, lambda name: "wave 2, documents 1 " in name))
    expected = graded(run_toml, tmp_path / "here", LOCAL, "seed=8")
    config = graded(run_toml, tmp_path / "there", Late(4), "seed=8", force=True)
    assert files_of(config.folder) == files_of(expected.folder)


def test_a_reference_to_a_file_of_another_model_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    embed = CachedEncoder(_Loads(tiny_encoder), "m", path, "x", {})
    embed(TEXTS[:3], "document")
    stored = embed.stored(TEXTS[:3], "document")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(OSError, match="ends before row"):
        stored.read()
    path.write_bytes(whole.replace(b'"m, fp32"', b'"n, fp32"'))
    with pytest.raises(OSError, match="another model"):
        stored.read()
