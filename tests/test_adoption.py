"""What a run takes over from others."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from multigrain.adoption import inherit
from multigrain.config import load_config
from multigrain.jsonl import write_atomic
from multigrain.rundir import RunDir, to_toml
from tests.model.decoder import tiny_decoder

LORA = ["model.lora.rank=4", "model.lora.top_layers=1", "model.pooling=mean"]


def put(run_dir: RunDir, name: str) -> RunDir:
    """As a run leaves its folder: vectors, and states of layers that are not trained."""
    for path in (run_dir.judge_vectors, run_dir.frozen / "states.npy", run_dir.frozen / "index.npz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return run_dir


def test_states_are_those_of_the_same_layers(run_toml: Path, tmp_path: Path) -> None:
    settings = [f"model.base={tiny_decoder()}", *LORA]
    causal = load_config(run_toml, settings)
    ahead = load_config(run_toml, [*settings, "model.bidirectional=true"])
    donors = [put(RunDir(tmp_path / name), name) for name in ("ahead", "causal")]
    for donor, config in zip(donors, (ahead, causal), strict=True):
        write_atomic(donor.config, to_toml(config).encode())
    heir = RunDir(tmp_path / "heir")
    inherit(donors, causal, heir)
    assert (heir.frozen / "states.npy").read_text() == "causal"
    assert heir.judge_vectors.stat().st_ino == donors[0].judge_vectors.stat().st_ino
    without = RunDir(tmp_path / "without")
    inherit(donors, load_config(run_toml), without)
    assert not without.frozen.exists()


def test_what_a_run_has_stays(run_toml: Path, tmp_path: Path) -> None:
    own, donor = (put(RunDir(tmp_path / name), name) for name in ("own", "donor"))
    inherit([donor], load_config(run_toml), own)
    assert own.judge_vectors.read_text() == "own" and (own.frozen / "states.npy").read_text() == "own"


def test_a_store_is_a_copy_of_its_own(run_toml: Path, tmp_path: Path) -> None:
    """Two names for one database would be its end; what is not yet in the main file comes along."""
    donor, heir = RunDir(tmp_path / "donor"), RunDir(tmp_path / "heir")
    donor.store.parent.mkdir(parents=True)
    with closing(sqlite3.connect(donor.store)) as store:
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("CREATE TABLE answers (text)")
        store.execute("INSERT INTO answers VALUES ('paid for')")
        store.commit()
        inherit([donor], load_config(run_toml), heir)  # while the donor's is open, its last words beside it
        with closing(sqlite3.connect(heir.store)) as copy:
            assert copy.execute("SELECT text FROM answers").fetchall() == [("paid for",)]
    assert heir.store.stat().st_ino != donor.store.stat().st_ino


def test_links_that_the_disk_does_not_know(run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    donor, heir = put(RunDir(tmp_path / "donor"), "donor"), RunDir(tmp_path / "heir")
    inherit([donor], load_config(run_toml), heir)
    assert heir.judge_vectors.read_text() == "donor"
