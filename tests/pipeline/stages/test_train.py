"""What the stage plans from the files of a run folder."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_tuples, write_records
from multigrain.errors import DataError
from multigrain.files import write_json
from multigrain.model.encode import Portion, PortionEncoder
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages.train import _planned, train
from multigrain.records import Document, GradedTuple, Negative, Pair
from multigrain.training.in_batch_false_negatives import texts_of


def test_what_grading_left_is_told_where_it_is_too_little(run_toml: Path) -> None:
    config = load_config(run_toml)
    run_dir = RunDir(config.folder)
    write_records(run_dir.tuples, [GradedTuple("1", "q", "p", (Negative("n", 4, 0.5, "mined"),))])
    write_json(run_dir.report, {"tuples": 1, "dropped": {"same group": 12}})
    with pytest.raises(DataError, match='pairs with negatives: 1; candidates dropped: 12 for "same group"'):
        train(config, run_dir)


def test_a_guide_reads_the_vectors_of_the_judge(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It encodes what is missing alone, whoever judged; the judge belongs to what decides the outcome."""
    settings = ["training.guide_margin=0.01", "training.batch_size=8"]
    command = [str(run_toml), "--quiet", *(word for setting in settings for word in ("--set", setting))]
    assert main(["synthesize", *command]) == main(["grade", *command]) == 0
    config = load_config(run_toml, settings)
    run_dir = RunDir(config.folder)
    kept = run_dir.judge_vectors.read_bytes()
    encoded: list[str] = []

    def encode(self: PortionEncoder, portion: Portion) -> Any:
        encoded.extend(portion.texts)
        return original(self, portion)

    original = PortionEncoder.__call__
    with monkeypatch.context() as patch:
        patch.setattr(PortionEncoder, "__call__", encode)
        assert main(["train", *command]) == 0
        assert encoded == []
        weights = (run_dir.trained / "model.safetensors").read_bytes()
        header, record = kept.index(b"\n") + 1, 16 + 2 * 32
        run_dir.judge_vectors.write_bytes(kept[: header + 5 * record])
        assert main(["train", *command, "--force"]) == 0
    tuples = list(read_tuples(run_dir.tuples))
    assert 0 < len(encoded) == len(set(encoded)) <= len({text for t in tuples for text in (t.query, *texts_of(t))})
    assert (run_dir.trained / "model.safetensors").read_bytes() == weights
    curriculum, _ = _planned(config, run_dir, tuples)
    named = [r for step in range(curriculum.steps) for row in curriculum.false_at(step, 0) for c in row for r in c]
    assert sum(row >= 0 for row in named) > 5  # known answers are below
    others = [load_config(run_toml, [*settings, f"grading.query_prompt={prompt}"]) for prompt in ("", "Query: ")]
    assert len({config.fingerprint("training") for config in others}) == 2
    apart = "training.neighbours=1"
    without = [load_config(run_toml, [apart, f"grading.query_prompt={prompt}"]) for prompt in ("", "Query: ")]
    assert len({config.fingerprint("training") for config in without}) == 1


def test_all_pairs_of_the_input_are_known(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Held-out pairs, those that are in neither part, and the groups of the corpus; a batch is as large as can be."""
    config = load_config(run_toml, ["training.batch_size=64"])
    run_dir = RunDir(config.folder)
    negatives = tuple(Negative(text, 4, 0.5, "mined") for text in ("held out", "in neither", "of the group"))
    tuples = [GradedTuple(str(i), f"q{i}", f"p{i}", negatives, group=f"g{i}") for i in range(5)]
    write_records(run_dir.train_pairs, [Pair("0", "q0", "p0")])
    write_records(run_dir.held_out_pairs, [Pair("1", "Q0", "Held out")])
    write_records(run_dir.other_pairs, [Pair("2", "q0", "in  neither")])
    write_records(run_dir.corpus, [Document("d", "of the group", group="g1"), Document("e", "another", group="g2")])
    curriculum, _ = _planned(config, run_dir, tuples)
    assert curriculum.batch_size == 5
    said = capsys.readouterr().err
    assert said.count("5 tuples do not fill a batch of 64 (training.batch_size): batches hold 5") == 1
    rows = {graded.id: curriculum.row(0, at, 1) for at, graded in enumerate(tuples[p] for p in curriculum.places[0])}
    assert [d.weight for d in rows["0"].documents] == [1.0, 0.0, 0.0]  # grade 4, twice
    assert [d.weight for d in rows["1"].documents] == [1.0, 1.0, 1.0]
    assert len(curriculum.known.groups) == 6


def test_the_length_is_told_in_steps_and_epochs(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 250 tuples in batches of 4, an epoch is 63 steps: each tuple comes, and two of them twice."""
    config = load_config(run_toml, ["training.phases=[]", "training.epochs=1"])
    run_dir = RunDir(config.folder)
    tuples = [GradedTuple(str(i), f"q{i}", f"p{i}", (Negative(f"n{i}", 4, 0.5, "mined"),)) for i in range(250)]
    write_records(run_dir.train_pairs, [Pair(graded.id, graded.query, graded.positive) for graded in tuples])
    write_records(run_dir.corpus, [])
    curriculum, _ = _planned(config, run_dir, tuples)
    assert "63 steps of 4 = 1 epoch of 250 tuples" in capsys.readouterr().err
    seen = Counter(id for step in range(curriculum.steps) for id in curriculum.ids_at(step))
    assert len(seen) == 250 and sorted(seen.values())[-3:] == [1, 2, 2]
