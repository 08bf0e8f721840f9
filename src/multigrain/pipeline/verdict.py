"""Decide whether the trained model wins or loses against its base, the baseline, and searches without training."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from multigrain.config import Config
from multigrain.evaluation.metrics import HYBRID, metric_by
from multigrain.evaluation.tasks import BEIR, HELD_OUT, name_of
from multigrain.pipeline.arms import WITHOUT_TRAINING

BASE = "base"


class Verdict(NamedTuple):
    """The comparison of the trained model with another one on a task, by the first metric of the task."""

    task: str
    metric: str
    against: str
    outcome: str
    """`WIN`, `LEVEL` or `LOSS`."""
    difference: tuple[float, float, float]
    """Trained - other, with the ends of the 95 % interval, paired over the items of the task."""
    trained_on: bool
    """Whether the training pairs are of the same kind as the task; on other tasks, the model may have forgotten."""


def outcome_of(low: float, high: float) -> str:
    """Return the verdict for the interval of a difference.

    >>> outcome_of(0.01, 0.03), outcome_of(-0.01, 0.03), outcome_of(-0.03, -0.01)
    ('WIN', 'LEVEL', 'LOSS')
    """
    if low > 0:
        return "WIN"
    return "LOSS" if high < 0 else "LEVEL"


def verdicts(config: Config, scores: Mapping[str, Any]) -> list[Verdict]:
    """Return the verdicts on all tasks with an interval: the held-out task, then others of its kind, then the rest.

    Args:
        config: the run.
        scores: content of `scores.json`, with `difference` (task -> metric -> trained - base, with its interval) and
            `others` (task -> name -> `trained_over`, the same for another model or search).
    """
    found = [verdict for task in scores["difference"] for verdict in _on_task(task, config, scores)]
    return sorted(found, key=_rank)


def _rank(verdict: Verdict) -> tuple[bool, bool]:
    return (not verdict.trained_on, verdict.task != HELD_OUT)


def _on_task(task: str, config: Config, scores: Mapping[str, Any]) -> Iterator[Verdict]:
    to_base = scores["difference"][task]
    first = next(iter(to_base))
    others = [(BASE, first, to_base[first])]
    for name, other in scores.get("others", {}).get(task, {}).items():
        others.append((name, first, other["trained_over"][first]))
    if (with_bm25 := metric_by(HYBRID, first)) in to_base:  # with BM25 on both sides
        others.append((WITHOUT_TRAINING[HYBRID], with_bm25, to_base[with_bm25]))
    for name, metric, (value, low, high) in others:
        if low is not None and high is not None:
            outcome = outcome_of(low, high)
            yield Verdict(task, metric, name, outcome, (value, low, high), _is_trained_on(task, config))


def _is_trained_on(task: str, config: Config) -> bool:
    """Return whether a task is like the training pairs: held out from them, or a split of the same BEIR set."""
    sets = {_set_of(name_of(pairs)) for pairs in config.data.trained_pairs if pairs.startswith(BEIR)}
    return task == HELD_OUT or (task.startswith(BEIR) and _set_of(task) in sets)


def _set_of(name: str) -> str:
    return name.rpartition(":")[0]
