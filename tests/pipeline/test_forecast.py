"""What is told of a run's time, and of how its pairs and its training fit each other."""

from typing import Any

import pytest

from multigrain.llm.budget import Usage
from multigrain.pipeline.forecast import Size, forecast
from tests.pipeline.drawn_pairs import config

SMALL = Size(pairs=1000, documents=1000, tokens=100)


def told(size: Size, calls: int, **sections: Any) -> str:
    return "\n".join(forecast(config(**sections), size, Usage(calls, 100 * calls, 300 * calls)))


def test_far_more_pairs_than_training_sees() -> None:
    said = told(Size(50_000, 50_000, 100), 10_240, training={"steps": 80})
    assert "5,120 of 50,000 pairs by training (80 steps x 64): 0.1 epochs" in said
    assert "training sees 10% of the pairs; 782 steps see each once (training.epochs = 1), or use fewer pairs:" in said
    assert "warning" not in told(SMALL, 4000)


def test_few_pairs_many_times() -> None:
    said = told(Size(36, 40, 100), 144)
    assert "36 of 36 pairs by training (60 steps x 36): 60 epochs" in said
    assert "training sees each pair about 60 times; give more pairs, or lower training.steps (1 see each once)" in said


def test_the_length_of_a_training_follows_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """400,000 pairs in batches of 64 are 6,250 steps, and the hours are told: 2 cores, 3 texts of 100 tokens a pair."""
    monkeypatch.setattr("multigrain.pipeline.forecast._cores", lambda: 2)
    said = told(Size(400_000, 400_000, 100), 0, training={"batch_size": 64})
    assert "400,000 of 400,000 pairs by training (6,250 steps x 64): 1 epoch" in said and "warning" not in said
    assert "train 15.2 h" in said  # 400,000 x 300 tokens / (2 x 1,100 a second)


def test_pairs_that_do_not_fill_a_batch() -> None:
    said = told(Size(32, 40, 100), 10, training={"batch_size": 64, "steps": 2})
    assert "32 of 32 pairs by training (2 steps x 32): 2 epochs" in said
    assert "see each once" not in said
    said = told(Size(32, 40, 100), 10, training={"batch_size": 64, "steps": 40})
    assert "training sees each pair about 40 times; give more pairs, or lower training.steps (1 see each once)" in said


def test_days_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.pipeline.forecast._cores", lambda: 2)
    assert "the language model takes about 3.3 days; lower synthesis.limit" in told(SMALL, 720_000)
    endpoint = {"provider": "endpoint", "model": "m", "base_url": "http://h/v1", "max_concurrency": 100}
    assert "warning" not in told(SMALL, 720_000, llm=endpoint)  # 14 h, at 100 requests at once and 7 s each
    assert "synthesize 14.0 h" in told(Size(1000, 0, 100), 720_000, llm=endpoint)


def test_a_model_that_is_not_on_this_disk_has_no_time() -> None:
    said = told(SMALL, 10, model={"base": "somebody/elses"}, evaluation={"tasks": ["mteb:X"]})
    assert "train unknown, evaluate unknown" in said and "grade under a minute" in said


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.pipeline.forecast._has_gpu", lambda: True)
    assert "the GPU is faster; by how much is unknown" in told(SMALL, 10)
