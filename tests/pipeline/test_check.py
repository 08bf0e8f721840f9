"""What `check` says of time and use, and that it says it quickly."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config, load_config
from multigrain.pipeline import check as module
from multigrain.pipeline.check import check
from multigrain.records import Pair
from tests.pipeline.drawn_pairs import config, texts

Write = Callable[[str, list[dict[str, Any]]], Path]


def written(path: Path, pairs: list[Pair]) -> Path:
    rows = ({"id": pair.id, "query": pair.query, "positive": pair.positive} for pair in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_requests_are_those_of_the_pairs_that_are_asked_about(tmp_path: Path) -> None:
    few = config(written(tmp_path / "pairs.jsonl", texts(40)), synthesis={"limit": 5, "prompt_style": "per-grade"})
    assert "5 pairs, 4 requests for each pair" in (report := check(few))
    assert "  asking      20 requests, " in report


def test_check_takes_seconds_for_a_hundred_thousand_pairs(tmp_path: Path) -> None:
    """It took 160 s of processor time for so many; here a twentieth of them, with room for a busy machine."""
    big = config(written(tmp_path / "pairs.jsonl", texts(5000)), training={"steps": 5000})
    started = time.process_time()
    report = check(big)
    assert time.process_time() - started < 4
    assert "4500 training pairs" in report and "18,000 requests" in report


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
