"""The verdicts on a run's tasks."""

from typing import Any

from multigrain.config import Config
from multigrain.pipeline.verdict import verdicts

SCORES: dict[str, Any] = {
    "difference": {
        "sts:x": {"Spearman": [-0.02, -0.03, -0.01]},
        "mteb:SciFact": {"main score": [0.1, None, None]},
        "beir:scifact:test": {"nDCG@10": [0.0, -0.01, 0.01], "MRR@10": [0.1, 0.05, 0.15]},
        "held-out": {"nDCG@10": [0.05, 0.01, 0.09]},
        "beir:nfcorpus:test": {"nDCG@10": [0.02, 0.0, 0.04]},
    },
    "arms": {
        "held-out": {
            "in-batch": {"trained_over": {"nDCG@10": [0.01, -0.01, 0.03]}},
            "mined": {"trained_over": {"nDCG@10": [-0.02, -0.03, -0.01]}},
        }
    },
}


def told(pairs: str) -> list[tuple[str, str, str, bool]]:
    config = Config.model_validate({"name": "x", "data": {"pairs": pairs}})
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


def test_runs_of_earlier_versions_have_no_arms() -> None:
    config = Config.model_validate({"name": "x", "data": {"pairs": "a.jsonl"}})
    known = {"difference": {"held-out": SCORES["difference"]["held-out"]}}
    assert [verdict.against for verdict in verdicts(config, known)] == ["base"]
