"""Put runs beside each other: a table of all arms on all tasks, with intervals, tests, and what moved most. No torch.

An *arm* is what is compared: a way of making a model, measured once or with several seeds. The first is the baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from multigrain.errors import RunError
from multigrain.evaluation.metrics import GOLD, SPEARMAN
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
"""Items shown that gained, and as many that lost."""


@dataclass(frozen=True)
class Arm:
    """A name, and its trainings."""

    name: str
    trainings: list[RunScores]


@dataclass(frozen=True)
class ArmScore:
    """One metric of one arm on one task; the difference is from the baseline's."""

    value: float
    each: list[float]
    difference: Difference | None = None
    p: float | None = None
    """Of the randomisation test, corrected for the number of differences in the table (Holm)."""

    @property
    def spread(self) -> float | None:
        """Standard deviation over trainings."""
        return stdev(self.each) if len(self.each) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Task -> metric -> arm -> score; of each task the first metric is the one that is tested."""

    baseline: str
    tasks: dict[str, dict[str, dict[str, ArmScore]]]
    moved: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    """Task -> arm -> the items that gained most against the baseline, and those that lost most."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def compare(arms: Sequence[Arm], seed: int) -> Comparison:
    """All arms on all tasks that they have in common, against the first.

    Raises:
        RunError: there is no such task, or a task has other items in one arm than in another.
    """
    first = arms[0].trainings[0]
    shared = [task for task in first.scores if all(task in t.scores for arm in arms for t in arm.trainings)]
    if not shared:
        names = "; ".join(f"{arm.name}: {', '.join(arm.trainings[0].scores) or 'none'}" for arm in arms)
        raise RunError(f"there is no task that all were measured on; nothing to compare. Tasks of {names}")
    for task in shared:
        _require_same_items(arms, task)
    tasks = {task: _task(arms, task, seed) for task in shared}
    moved = {
        task: {arm.name: _moved(arms[0], arm, task, first.texts.get(task, {})) for arm in arms[1:]}
        for task in shared
        if task in first.items
    }
    return Comparison(arms[0].name, _with_p(tasks, arms, seed), moved)


def _require_same_items(arms: Sequence[Arm], task: str) -> None:
    measured = [(arm, training) for arm in arms for training in arm.trainings]
    sizes = {training.documents[task]: arm.name for arm, training in measured if task in training.documents}
    if len(sizes) > 1:
        counts = ", ".join(f"{size} documents in {name}" for size, name in sizes.items())
        raise RunError(f"{task}: searched in different corpora ({counts}). Measure all on the same data.")
    known = {_identities(training, task): arm.name for arm, training in measured}
    if len(known) > 1:
        (one, name), (other, other_name) = list(known.items())[:2]
        counts = f"{len(one)} in {name}, {len(other)} in {other_name}, {len(one & other)} in both"
        raise RunError(f"{task}: measured on different items ({counts}). Measure all on the same data.")


def _identities(training: RunScores, task: str) -> frozenset[tuple[str, str, float | None, frozenset[str]]]:
    """What must be the same for items to be the same: id, text, what people say of them, and their metrics."""
    texts = training.texts.get(task, {})
    items = training.items.get(task, {})
    return frozenset((id, texts.get(id, id), item.get(GOLD), frozenset(item)) for id, item in items.items())


def _task(arms: Sequence[Arm], task: str, seed: int) -> dict[str, dict[str, ArmScore]]:
    return {
        metric: {arm.name: _score(arms[0], arm, task, metric, seed) for arm in arms}
        for metric in arms[0].trainings[0].scores[task]
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
    """Of both, item by item in the same order."""
    ids = ids_of(baseline.trainings[0].items[task], metric)
    one, other = (sample_of([t.items[task] for t in side.trainings], metric, ids) for side in (baseline, arm))
    return one, other


def _with_p(
    tasks: dict[str, dict[str, dict[str, ArmScore]]], arms: Sequence[Arm], seed: int
) -> dict[str, dict[str, dict[str, ArmScore]]]:
    """The same with p values for the first metric of each task, corrected for all of them together."""
    tested = [(task, next(iter(metrics)), arm) for task, metrics in tasks.items() for arm in arms[1:]]
    tested = [(task, metric, arm) for task, metric, arm in tested if task in arm.trainings[0].items]
    raw = [randomisation_test(*_samples(arms[0], arm, task, metric), seed) for task, metric, arm in tested]
    for (task, metric, arm), p in zip(tested, holm(raw), strict=True):
        tasks[task][metric][arm.name] = replace(tasks[task][metric][arm.name], p=p)
    return tasks


def _moved(baseline: Arm, arm: Arm, task: str, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """The items whose first metric changed most, by the mean over trainings: gains first, then losses."""
    metric = next(iter(baseline.trainings[0].scores[task]))
    if metric == SPEARMAN:
        return []  # a pair has no score of its own
    before, after = (_means(side, task, metric) for side in (baseline, arm))
    gain = {id: after[id] - before[id] for id in before}
    order = sorted(gain, key=lambda query: -gain[query])
    gained = [id for id in order[:MOVED] if gain[id] > 0]
    lost = [id for id in reversed(order[-MOVED:]) if gain[id] < 0]
    return [
        {"query": id, "text": texts.get(id, id), "before": round(before[id], 4), "after": round(after[id], 4)}
        for id in [*gained, *lost]
    ]


def _means(arm: Arm, task: str, metric: str) -> dict[str, float]:
    trainings = [training.items[task] for training in arm.trainings]
    return {id: fmean(t[id][metric] for t in trainings) for id, item in trainings[0].items() if metric in item}
