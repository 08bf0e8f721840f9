"""The verdicts on a run's tasks."""

from typing import Any

import pytest

from multigrain.config import Config
from multigrain.evaluation.evaluate import Evaluation
from multigrain.pipeline.arms import compared_with_others, differences
from multigrain.pipeline.verdict import verdicts

METRICS = ("nDCG@10", "nDCG@10 bm25", "nDCG@10 hybrid")
SCORES: dict[str, Any] = {
    "difference": {
        "sts:x": {"Spearman": [-0.02, -0.03, -0.01]},
        "mteb:SciFact": {"main score": [0.1, None, None]},
        "beir:scifact:test": {"nDCG@10": [0.0, -0.01, 0.01], "MRR@10": [0.1, 0.05, 0.15]},
        "held-out": {"nDCG@10": [0.05, 0.01, 0.09]},
        "beir:nfcorpus:test": {"nDCG@10": [0.02, 0.0, 0.04]},
    },
    "others": {
        "held-out": {
            "in-batch": {"trained_over": {"nDCG@10": [0.01, -0.01, 0.03]}},
            "mined": {"trained_over": {"nDCG@10": [-0.02, -0.03, -0.01]}},
        }
    },
}


def told(pairs: str) -> list[tuple[str, str, str, bool]]:
    return told_of({"pairs": pairs})


def told_of(data: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    config = Config.model_validate({"name": "x", "data": data})
    return [(v.outcome, v.against, v.task, v.trained_on) for v in verdicts(config, SCORES)]


def test_the_held_out_task_comes_first_and_what_was_not_trained_on_last() -> None:
    assert told("beir:/data/scifact:train") == [
        ("WIN", "base", "held-out", True),
        ("LEVEL", "in-batch", "held-out", True),
        ("LOSS", "mined", "held-out", True),
        ("LEVEL", "base", "beir:scifact:test", True),
        ("LOSS", "base", "sts:x", False),
        ("LEVEL", "base", "beir:nfcorpus:test", False),  # an interval that touches 0 is not above it
    ]


def test_a_set_of_another_run_is_one_that_was_not_trained_on() -> None:
    assert ("LEVEL", "base", "beir:scifact:test", False) in told("/data/scifact.jsonl")
    assert ("LEVEL", "base", "beir:scifact:test", False) in told("python-docs")


def test_a_set_of_one_of_several_sources_is_trained_on_unless_this_source_is_not() -> None:
    def is_trained_on(held_out: float | list[str], weight: float) -> bool:
        sets = ("nq", 1.0, "x.jsonl"), ("fact", weight, "beir:/data/scifact:train")
        sources = [{"name": name, "weight": weight, "pairs": pairs} for name, weight, pairs in sets]
        told = told_of({"sources": sources, "held_out": held_out})
        return ("LEVEL", "base", "beir:scifact:test", True) in told

    assert is_trained_on(held_out=0.1, weight=1.0)
    assert not is_trained_on(held_out=["fact"], weight=1.0)
    assert not is_trained_on(held_out=0.1, weight=0.0)


def test_what_bm25_finds_without_training_is_compared_with_too() -> None:
    """By hand: trained 0.6 and 0.4, BM25 0.5 and 0.5, base + BM25 0.9 and 0.8; with BM25 the trained model has 1."""
    base, trained = (
        Evaluation({id: dict(zip(METRICS, values, strict=True)) for id, values in items.items()})
        for items in ({"a": (0.2, 0.5, 0.9), "b": (0.3, 0.5, 0.8)}, {"a": (0.6, 0.5, 1.0), "b": (0.4, 0.5, 1.0)})
    )
    others = compared_with_others(base, trained, {}, seed=7)
    assert {name: other["trained_over"][METRICS[0]].value for name, other in others.items()} == pytest.approx(
        {"BM25": 0.0, "base + BM25": -0.35}
    )
    scores = {"difference": {"held-out": differences(base, trained, seed=7)}, "others": {"held-out": others}}
    config = Config.model_validate({"name": "x", "data": {"pairs": "a.jsonl"}})
    assert [(v.outcome, v.against, v.metric) for v in verdicts(config, scores)] == [
        ("WIN", "base", "nDCG@10"),
        ("LEVEL", "BM25", "nDCG@10"),
        ("LOSS", "base + BM25", "nDCG@10"),
        ("WIN", "base + BM25", "nDCG@10 hybrid"),
    ]


def test_runs_of_earlier_versions_have_no_arms() -> None:
    config = Config.model_validate({"name": "x", "data": {"pairs": "a.jsonl"}})
    known = {"difference": {"held-out": SCORES["difference"]["held-out"]}}
    assert [verdict.against for verdict in verdicts(config, known)] == ["base"]
