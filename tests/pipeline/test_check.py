"""What `check` says of time and use, and that it says it quickly."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config, load_config
from multigrain.data.jsonl import write_records
from multigrain.errors import DataError
from multigrain.pipeline import check as module
from multigrain.pipeline.check import check
from multigrain.pipeline.check_time import measured_training
from multigrain.pipeline.forecast import Size
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair
from tests.pipeline.drawn_pairs import config, texts

Write = Callable[[str, list[dict[str, Any]]], Path]


def written(path: Path, pairs: list[Pair]) -> Path:
    rows = ({"id": pair.id, "query": pair.query, "positive": pair.positive} for pair in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_requests_are_those_of_the_pairs_that_are_asked_about(tmp_path: Path) -> None:
    few = config(written(tmp_path / "pairs.jsonl", texts(40)), synthesis={"limit": 5, "prompt_style": "per-grade"})
    assert "5 pairs, 4 requests per pair" in (report := check(few))
    assert "  asking      20 requests, " in report


def test_check_takes_seconds_for_a_hundred_thousand_pairs(tmp_path: Path) -> None:
    """It took 160 s of processor time for so many; here a twentieth of them, with room for a busy machine."""
    big = config(written(tmp_path / "pairs.jsonl", texts(5000)), training={"steps": 5000})
    started = time.process_time()
    report = check(big)
    assert time.process_time() - started < 4
    assert "4275 training pairs" in report and "17,100 requests" in report


def test_batches_in_the_report_are_no_larger_than_the_data(run_toml: Path) -> None:
    assert "; batches of 30, " in check(load_config(run_toml, ["training.batch_size=64"]))


def test_times_stand_in_the_report_until_the_stages_are_done(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = check(load_config(run_toml))
    assert "  time        about, on" in report and ": synthesize under a minute, grade under a minute, train" in report
    assert "30 of 30 pairs by training (8 steps x 4): 1.1 epochs" in report
    monkeypatch.setattr(module, "finished", lambda *_: ["data", "synthesize", "grade"])
    load_config(run_toml).folder.mkdir(parents=True)
    (load_config(run_toml).folder / "run.toml").write_text("")
    assert "CPU cores: train under a minute" in check(load_config(run_toml))


def test_steps_that_nobody_knows_yet_are_not_told(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many pairs the packages here have is known once they are read."""
    monkeypatch.setattr("multigrain.pipeline.check_inputs.package_roots", list)
    docs: dict[str, Any] = {"name": "x", "data": {"pairs": "python-docs"}, "llm": {"provider": "scripted"}}
    report = check(Config.model_validate(docs))
    assert "training    hardest: grade 4; 1 epoch, batches of 64" in report
    assert "at most 2,560 pairs, 4 requests" in report
    docs["data"]["limit"] = 6400
    assert "hardest: grade 4 (100); batches of 64" in check(Config.model_validate(docs))


def test_the_time_of_training_is_measured_on_demand(run_toml: Path) -> None:
    config = load_config(run_toml, ["training.phases=[]", "training.epochs=20", "training.max_tokens=16"])
    report = check(config, time=True)
    found = re.search(
        r"measured    ([\d,]+) tokens per second in training, timed on ([\d,]+) tokens of the run's", report
    )
    assert found and int(found[2].replace(",", "")) > 100
    assert "; 7 tokens per query, 11 per document" in report
    assert "train under a minute" in report and not config.folder.exists()


def test_the_time_of_all_steps_follows_from_that_of_a_token(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 pairs, 150 steps of 4 with four negatives: 600 queries of 8 tokens, 3,000 documents of 12."""
    from multigrain.training import step_time

    found = step_time.StepTime(per_token=0.1, optimizer=2.0, query_tokens=8, document_tokens=12, tokens=99)
    monkeypatch.setattr(step_time, "time_steps", lambda *_: found)
    all_grades = ["training.phases=[]", "training.schedule=all-at-once"]
    config = load_config(run_toml, [*all_grades, "training.epochs=20", "training.batch_size=4"])
    pairs = [Pair(str(n), "a", "b") for n in range(30)]
    measured = measured_training(config, Size(30, 30, 12), pairs)
    assert measured.seconds == pytest.approx(0.1 * (600 * 8 + 3000 * 12) + 150 * 2)
    config = load_config(run_toml, [*all_grades, "training.steps=1", "training.activation_gb=0"])
    measured = measured_training(config, Size(30, 30, 12), pairs)
    assert measured.seconds == pytest.approx(0.1 * (4 * 8 + 20 * 12) + 2)  # so were those that were timed
    assert measured.line.endswith("8 tokens per query, 12 per document; 100% of them encoded twice")


def test_the_pairs_of_the_run_folder_are_timed_where_it_has_some(
    write_jsonl: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So is a run whose pairs the language model has written."""
    from multigrain.training import step_time

    timed: list[Any] = []
    found = step_time.StepTime(per_token=0.1, optimizer=2.0, query_tokens=8, document_tokens=12, tokens=99)

    def noted(*given: Any) -> step_time.StepTime:
        timed.append(given)
        return found

    monkeypatch.setattr(step_time, "time_steps", noted)
    settings = config(output=str(tmp_path))
    write_records(RunDir(settings.folder).train_pairs, [Pair(str(n), f"q{n}", f"p{n}") for n in range(9)])
    measured_training(settings, Size(9, 9, 12), [])
    (_, _, queries, positives) = timed[0]
    assert sorted(queries) == [f"q{n}" for n in range(9)] != queries
    assert positives == [query.replace("q", "p") for query in queries]


def test_pairs_that_are_still_to_be_written_cannot_be_timed(write_jsonl: Write) -> None:
    corpus = write_jsonl(
        "c.jsonl", [{"id": str(n), "text": f"{n} word two three four five six seven"} for n in range(9)]
    )
    settings = {"name": "x", "data": {"corpus": str(corpus)}, "synthesis": {"mode": "corpus"}}
    with pytest.raises(DataError, match="--time: found 0 pairs; wanted at least 2.* run: multigrain synthesize"):
        check(Config.model_validate({**settings, "llm": {"provider": "scripted"}}), time=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"data": {"corpus": "CORPUS"}, "synthesis": {"mode": "corpus"}},
        {"data": {}, "synthesis": {"mode": "tasks", "domains": ["law"]}},
    ],
)
def test_negatives_that_come_second_are_in_the_time(settings: dict[str, Any], write_jsonl: Write) -> None:
    corpus = write_jsonl(
        "c.jsonl", [{"id": str(n), "text": f"{n} word two three four five six seven"} for n in range(99)]
    )
    if "corpus" in settings["data"]:
        settings["data"]["corpus"] = str(corpus)
    report = check(Config.model_validate({"name": "x", "llm": {"provider": "scripted"}, **settings}))
    assert "  time        about" in report and re.search(r"seen        \d+ of about \d+ pairs by training", report)


def test_a_teacher_and_its_lists_stand_in_the_report(run_toml: Path, tiny_cross_encoder: Path) -> None:
    settings = ["training.phases=[]", "training.steps=9", "training.loss=distill", "training.teacher.documents=5"]
    report = check(load_config(run_toml, [*settings, "training.teacher.kind=fused"]))
    assert "training    lists of 5 documents, scored by fused: lists (9); batches of 4, distill" in report
    assert "grade 4 |" not in report
    named = ["training.teacher.kind=cross-encoder", f"training.teacher.model={tiny_cross_encoder}"]
    report = check(load_config(run_toml, [*settings, *named, "training.teacher.max_tokens=900"]))
    assert f"scored by {tiny_cross_encoder}: lists (9)" in report
    assert "training.teacher.max_tokens" in report  # it has positions for fewer
