"""Compare arms on all tasks, with intervals, tests, and the items that moved most. Does not import torch.

An *arm* is a way of making a model, measured once or with several seeds. The first arm is the baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from multigrain.errors import RunError
from multigrain.evaluation.metrics import GOLD, SPEARMAN, is_of_model
from multigrain.evaluation.significance import (
    Difference,
    Sample,
    holm,
    ids_of,
    paired_bootstrap,
    randomisation_test,
    sample_of,
)
from multigrain.experiments.results import RunScores

MOVED = 5
"""Number of items shown that gained most, and of items that lost most."""


@dataclass(frozen=True)
class Arm:
    """A way of making a model: its name and its trainings."""

    name: str
    trainings: list[RunScores]


@dataclass(frozen=True)
class ArmScore:
    """One metric of one arm on one task.

    Attributes:
        value: the mean over trainings.
        each: the metric of each training.
        difference: difference from the baseline.
        p: p-value of the randomization test, corrected for the number of differences in the table (Holm).
    """

    value: float
    each: list[float]
    difference: Difference | None = None
    p: float | None = None

    @property
    def spread(self) -> float | None:
        """Standard deviation over trainings."""
        return stdev(self.each) if len(self.each) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """All arms on all tasks.

    Attributes:
        baseline: the name of the arm that the others are compared with.
        tasks: task -> metric -> arm -> score; the first metric of each task is tested.
        moved: task -> arm -> the items that gained most against the baseline, then those that lost most.
    """

    baseline: str
    tasks: dict[str, dict[str, dict[str, ArmScore]]]
    moved: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return asdict(self)


def compare(arms: Sequence[Arm], seed: int) -> Comparison:
    """Compare all arms with the first, on all tasks that they have in common.

    Raises:
        RunError: the arms have no task in common, or a task has different items in two arms.
    """
    first = arms[0].trainings[0]
    trainings = [training for arm in arms for training in arm.trainings]
    shared = [task for task in first.scores if all(task in training.scores for training in trainings)]
    if not shared:
        names = "; ".join(f"{arm.name}: {', '.join(arm.trainings[0].scores) or 'none'}" for arm in arms)
        raise RunError(f"the arms have no task in common, so there is nothing to compare. Tasks of {names}")
    for task in shared:
        _require_same_items(arms, task)
    tasks = {task: _task(arms, task, seed) for task in shared}
    moved: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task in shared:
        if task in first.items:
            texts = first.texts.get(task, {})
            moved[task] = {arm.name: _moved(arms[0], arm, task, texts) for arm in arms[1:]}
    return Comparison(arms[0].name, _with_p(tasks, arms, seed), moved)


def _require_same_items(arms: Sequence[Arm], task: str) -> None:
    """Check that all trainings were measured on the same items.

    Raises:
        RunError: they were not, or they searched corpora of different sizes.
    """
    measured = [(arm, training) for arm in arms for training in arm.trainings]
    sizes = {training.documents[task]: arm.name for arm, training in measured if task in training.documents}
    if len(sizes) > 1:
        counts = ", ".join(f"{size} documents in {name}" for size, name in sizes.items())
        raise RunError(f"{task}: searched different corpora ({counts}). Measure all on the same data.")
    known = {_identities(training, task): arm.name for arm, training in measured}
    if len(known) > 1:
        (one, name), (other, other_name) = list(known.items())[:2]
        counts = f"{len(one)} in {name}, {len(other)} in {other_name}, {len(one & other)} in both"
        raise RunError(f"{task}: measured on different items ({counts}). Measure all on the same data.")


def _identities(training: RunScores, task: str) -> frozenset[tuple[str, str, float | None, frozenset[str]]]:
    """Return what identifies items: id, text, human score, and the names of the model's metrics."""
    texts = training.texts.get(task, {})
    items = training.items.get(task, {})
    of_models = {id: frozenset(filter(is_of_model, item)) for id, item in items.items()}
    return frozenset((id, texts.get(id, id), item.get(GOLD), of_models[id]) for id, item in items.items())


def _task(arms: Sequence[Arm], task: str, seed: int) -> dict[str, dict[str, ArmScore]]:
    return {
        metric: {arm.name: _score(arms[0], arm, task, metric, seed) for arm in arms}
        for metric in arms[0].trainings[0].scores[task]
        if is_of_model(metric) or all(metric in each.scores[task] for arm in arms for each in arm.trainings)
    }


def _score(baseline: Arm, arm: Arm, task: str, metric: str, seed: int) -> ArmScore:
    each = [training.scores[task].get(metric, float("nan")) for training in arm.trainings]
    value = fmean(each)
    if arm is baseline:
        return ArmScore(value, each)
    if task not in arm.trainings[0].items:
        return ArmScore(value, each)
    return ArmScore(value, each, paired_bootstrap(*_samples(baseline, arm, task, metric), seed))


def _samples(baseline: Arm, arm: Arm, task: str, metric: str) -> tuple[Sample, Sample]:
    """Return the values of both arms, with the items in the same order."""
    ids = ids_of(baseline.trainings[0].items[task], metric)
    before = [training.items[task] for training in baseline.trainings]
    after = [training.items[task] for training in arm.trainings]
    return sample_of(before, metric, ids), sample_of(after, metric, ids)


def _with_p(
    tasks: dict[str, dict[str, dict[str, ArmScore]]], arms: Sequence[Arm], seed: int
) -> dict[str, dict[str, dict[str, ArmScore]]]:
    """Add p-values for the first metric of each task, corrected for all of them together."""
    tested: list[tuple[str, str, Arm]] = []
    p_values: list[float] = []
    for task, metrics in tasks.items():
        metric = next(iter(metrics))
        for arm in arms[1:]:
            if task in arm.trainings[0].items:
                before, after = _samples(arms[0], arm, task, metric)
                tested.append((task, metric, arm))
                p_values.append(randomisation_test(before, after, seed))
    for (task, metric, arm), p in zip(tested, holm(p_values), strict=True):
        scores = tasks[task][metric]
        scores[arm.name] = replace(scores[arm.name], p=p)
    return tasks


def _moved(baseline: Arm, arm: Arm, task: str, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the items whose first metric changed most, by the mean over trainings: gains first, then losses."""
    metric = next(iter(baseline.trainings[0].scores[task]))
    if metric == SPEARMAN:
        return []  # a single pair has no rank correlation
    before = _means(baseline, task, metric)
    after = _means(arm, task, metric)
    gain = {id: after[id] - before[id] for id in before}
    order = sorted(gain, key=lambda item: -gain[item])
    gained = [id for id in order[:MOVED] if gain[id] > 0]
    lost = [id for id in reversed(order[-MOVED:]) if gain[id] < 0]
    return [
        {"query": id, "text": texts.get(id, id), "before": round(before[id], 4), "after": round(after[id], 4)}
        for id in [*gained, *lost]
    ]


def _means(arm: Arm, task: str, metric: str) -> dict[str, float]:
    trainings = [training.items[task] for training in arm.trainings]
    means: dict[str, float] = {}
    for id, item in trainings[0].items():
        if metric in item:
            means[id] = fmean(items[id][metric] for items in trainings)
    return means
