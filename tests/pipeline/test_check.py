"""What `check` says of time and use, and that it says it quickly."""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config, load_config
from multigrain.llm.budget import Usage
from multigrain.pipeline import check as module
from multigrain.pipeline.check import check
from multigrain.pipeline.forecast import Size, forecast
from multigrain.pipeline.generation.estimate import estimate_usage, usage_bound
from multigrain.records import Pair
from multigrain.synthesis.negatives import plan_negatives

Write = Callable[[str, list[dict[str, Any]]], Path]


def config(pairs: Path | str = "a.jsonl", **sections: Any) -> Config:
    return Config.model_validate({"name": "x", "data": {"pairs": str(pairs)}, **sections})


def texts(count: int, words: int = 60) -> list[Pair]:
    draw = random.Random(1)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz ä", k=draw.randint(3, 9))) for _ in range(2000)]
    return [
        Pair(str(n), " ".join(draw.choices(known, k=8)), " ".join(draw.choices(known, k=draw.randint(1, 2 * words))))
        for n in range(count)
    ]


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


@pytest.mark.parametrize(
    "synthesis",
    [
        {"prompt_style": "per-grade"},
        {"prompt_style": "all-grades"},
        {"prompt_style": "all-grades", "per_grade": 2, "grades": [2, 4], "domain": "law", "language": "German"},
        {"prompt_style": "per-grade", "per_grade": 2, "sources": {"4": "mined"}, "answer_tokens": 99},
    ],
)
def test_a_sample_tells_what_all_requests_take(synthesis: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [*texts(300), Pair("long", "q " * 500, "word " * 9000), Pair("wide", "\0\ud800 ä", "ä\u3000é\0" * 300)]
    settings = config(synthesis=synthesis)
    everything = list(plan_negatives(settings, lambda: pairs, len(pairs), "m"))
    exact = estimate_usage(settings, everything)
    bound = usage_bound(settings, pairs)
    few = estimate_usage(settings, plan_negatives(settings, lambda: pairs[:100], 100, "m"), bound)
    assert exact is not None and few is not None
    assert few.most.calls == exact.most.calls == len(everything)
    assert few.likely.tokens == pytest.approx(exact.likely.tokens, rel=0.05)
    assert few.most.completion_tokens == exact.most.completion_tokens
    assert exact.most.prompt_tokens <= few.most.prompt_tokens
    if synthesis["prompt_style"] == "all-grades":  # no term of a cloze, which may be anywhere in the text
        assert few.most.prompt_tokens <= 1.05 * exact.most.prompt_tokens


def test_a_prompt_that_names_a_text_twice_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "grade_2.txt").write_text("$positive and $positive and $query:\n$passage")
    settings = config(synthesis={"prompts": str(tmp_path), "prompt_style": "per-grade", "grades": [2]})
    pairs = texts(20, words=10)
    exact = estimate_usage(settings, plan_negatives(settings, lambda: pairs, 20, "m"))
    assert exact is not None
    assert exact.most.prompt_tokens <= usage_bound(settings, pairs).prompt_tokens <= 1.1 * exact.most.prompt_tokens


SMALL = Size(pairs=1000, documents=1000, tokens=100)


def told(size: Size, calls: int, **sections: Any) -> str:
    return "\n".join(forecast(config(**sections), size, Usage(calls, 100 * calls, 300 * calls)))


def test_far_more_pairs_than_training_sees() -> None:
    said = told(Size(50_000, 50_000, 100), 10_240)
    assert "2,560 of 50,000 pairs by training (80 steps x 32): 0.051 epochs" in said
    assert "training sees 5% of the pairs; for each of them once set training.steps = 1563" in said
    assert "beware" not in told(SMALL, 4000)


def test_few_pairs_many_times() -> None:
    said = told(Size(36, 40, 100), 144)
    assert "36 of 36 pairs by training (80 steps x 32): 71 epochs" in said
    assert "training sees each pair about 71 times; give more pairs, or lower training.steps (2 see each once)" in said


def test_pairs_that_do_not_fill_a_batch() -> None:
    said = told(Size(32, 40, 100), 10, training={"batch_size": 64, "steps": 2})
    assert "32 of 32 pairs by training (2 steps x 32): 2 epochs" in said
    assert "see each once" not in said
    said = told(Size(32, 40, 100), 10, training={"batch_size": 64, "steps": 40})
    assert "training sees each pair about 40 times; give more pairs, or lower training.steps (1 see each once)" in said


def test_batches_in_the_report_are_no_larger_than_the_data(run_toml: Path) -> None:
    assert "; batches of 30, " in check(load_config(run_toml, ["training.batch_size=64"]))


def test_days_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.pipeline.forecast._cores", lambda: 2)
    assert "asking the language model takes about 3.3 days; lower synthesis.limit" in told(SMALL, 720_000)
    endpoint = {"provider": "endpoint", "model": "m", "base_url": "http://h/v1", "max_concurrency": 100}
    assert "beware" not in told(SMALL, 720_000, llm=endpoint)  # 14 h, at 100 requests at once and 7 s each
    assert "synthesize 14.0 h" in told(Size(1000, 0, 100), 720_000, llm=endpoint)


def test_a_model_that_is_not_on_this_disk_has_no_time() -> None:
    said = told(SMALL, 10, model={"base": "somebody/elses"}, evaluation={"tasks": ["mteb:X"]})
    assert "train unknown, evaluate unknown" in said and "grade under a minute" in said


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.pipeline.forecast._has_gpu", lambda: True)
    assert "a GPU is there, and faster; by how much is not known" in told(SMALL, 10)


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
