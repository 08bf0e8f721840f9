"""What a run takes over from others."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from multigrain.config import load_config
from multigrain.errors import RunError
from multigrain.files import write_atomic
from multigrain.llm.budget import Usage
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.reuse import share_answers
from multigrain.pipeline.run_dir import RunDir, to_toml
from multigrain.pipeline.verbs import measure
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
    share_answers(donors, causal, heir)
    assert (heir.frozen / "states.npy").read_text() == "causal"
    assert heir.judge_vectors.stat().st_ino == donors[0].judge_vectors.stat().st_ino
    without = RunDir(tmp_path / "without")
    share_answers(donors, load_config(run_toml), without)
    assert not without.frozen.exists()


def test_scores_are_those_of_the_same_teacher(run_toml: Path, tmp_path: Path) -> None:
    settings = ["training.phases=[]", "training.loss=distill", "training.teacher.kind=embedder"]
    configs = [load_config(run_toml, [*settings, f"training.teacher.model=hub/{name}"]) for name in ("small", "large")]
    donors = [RunDir(tmp_path / name) for name in ("small", "large")]
    for donor, config in zip(donors, configs, strict=True):
        write_atomic(donor.config, to_toml(config).encode())
        write_atomic(donor.teacher / "000000.parquet", donor.folder.name.encode())
        write_atomic(donor.teacher_vectors, b"vectors")
    heir, without = RunDir(tmp_path / "heir"), RunDir(tmp_path / "without")
    share_answers(
        donors, load_config(run_toml, [*settings, "training.teacher.model=hub/large", "training.steps=9"]), heir
    )
    assert (heir.teacher / "000000.parquet").read_text() == "large" and heir.teacher_vectors.is_file()
    share_answers(donors, load_config(run_toml), without)
    assert not without.teacher.exists()


def test_what_a_run_has_stays(run_toml: Path, tmp_path: Path) -> None:
    own, donor = (put(RunDir(tmp_path / name), name) for name in ("own", "donor"))
    share_answers([donor], load_config(run_toml), own)
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
        share_answers([donor], load_config(run_toml), heir)  # while the donor's is open, its last words beside it
        with closing(sqlite3.connect(heir.store)) as copy:
            assert copy.execute("SELECT text FROM answers").fetchall() == [("paid for",)]
    assert heir.store.stat().st_ino != donor.store.stat().st_ino


def _with_call(run_dir: RunDir, text: str) -> RunDir:
    with AnswerStore(run_dir.store) as store:
        store.end_call(store.begin_call(text, 8, Usage(1)), Answer(text), Usage(1))
    return run_dir


def _kept(run_dir: RunDir) -> list[str]:
    with AnswerStore(run_dir.store) as store:
        return [reply for (reply,) in store._database.execute("select reply from calls")]


def test_answers_are_never_replaced(run_toml: Path, tmp_path: Path) -> None:
    own, donor = (_with_call(RunDir(tmp_path / name), name) for name in ("own", "donor"))
    share_answers([donor], load_config(run_toml), own)
    assert _kept(own) == ["own"]
    damaged = RunDir(tmp_path / "damaged")
    write_atomic(damaged.store, b"what somebody may want to mend" * 100)
    share_answers([donor], load_config(run_toml), damaged)
    assert damaged.store.read_bytes().startswith(b"what")


def test_a_store_without_answers_is_no_reason_to_pay_again(run_toml: Path, tmp_path: Path) -> None:
    """`--batch status` makes one. While it is open, its pages lie beside it, not to be mixed with the donor's."""
    donor, heir = _with_call(RunDir(tmp_path / "donor"), "donor"), RunDir(tmp_path / "heir")
    with AnswerStore(heir.store) as store:
        store.learn("a", "m", Dialect())
        store.commit()
        share_answers([donor], load_config(run_toml), heir)
    assert _kept(heir) == ["donor"]
    empty = RunDir(tmp_path / "empty")
    write_atomic(empty.store, b"")
    share_answers([donor], load_config(run_toml), empty)
    assert _kept(empty) == ["donor"]


def test_nothing_is_taken_over_while_another_process_is_at_work(run_toml: Path, tmp_path: Path) -> None:
    donor = put(_with_call(RunDir(tmp_path / "donor"), "donor"), "donor")
    config = load_config(run_toml)
    heir = RunDir(config.folder)
    with heir.lock(), pytest.raises(RunError, match="another multigrain process"):
        measure(config, [donor.folder])
    assert not heir.store.exists() and not heir.judge_vectors.exists()


def test_links_that_the_disk_does_not_know(run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    donor, heir = put(RunDir(tmp_path / "donor"), "donor"), RunDir(tmp_path / "heir")
    share_answers([donor], load_config(run_toml), heir)
    assert heir.judge_vectors.read_text() == "donor"
