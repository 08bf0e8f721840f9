"""Put runs beside each other: a table of all arms on all tasks, with intervals, tests, and what moved most. No torch.

An *arm* is what is compared: a way of making a model, measured once or with several seeds. The first is the baseline.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from multigrain.errors import DataError, RunError
from multigrain.evaluation.compare import Difference, Sample, holm, paired_bootstrap, randomisation_test
from multigrain.evaluation.evaluate import Scores
from multigrain.evaluation.metrics import COSINE, GOLD, SPEARMAN, overall
from multigrain.evaluation.tasks import MTEB
from multigrain.jsonl import read_objects
from multigrain.progress import interval, named
from multigrain.rundir import RunDir
from multigrain.terminal import PLAIN, columns, shortened

MOVED = 5
"""Items shown that gained, and as many that lost."""
TEXT_WIDTH = 110
GAP = len("0.123 ± 0.012  ")
"""What a column of figures takes at least."""


@dataclass(frozen=True)
class Measured:
    """What one training was measured as: task -> item -> metric -> value; and the tasks' metrics.

    A task may have metrics alone. `texts` are what the items are, for people: task -> item -> text. `documents` are
    how many were searched, task -> number; runs of older versions do not say.
    """

    items: dict[str, Scores]
    scores: dict[str, dict[str, float]]
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A name, and its trainings."""

    name: str
    trainings: list[Measured]


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


def read_run(folder: Path) -> tuple[Measured, Measured]:
    """Base and trained model of a run, as they were measured.

    Raises:
        RunError: nothing is measured in the folder, or not the model that it holds now, or its files are damaged.
    """
    run_dir = RunDir(folder)
    if run_dir.manifest.is_file() and "evaluate" not in run_dir.stages():
        raise RunError(f"{folder}: the model is not measured yet. Run: multigrain evaluate RUN.toml")
    try:
        return _read_run(folder / "evaluation")
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder}: nothing is measured here. Run: multigrain evaluate RUN.toml") from None
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be read: {error.strerror}.") from None
    except (DataError, ValueError, LookupError, TypeError, AttributeError) as error:
        fault = f"{folder}/evaluation: damaged ({type(error).__name__}: {error})"
        raise RunError(f"{fault}. Run: multigrain evaluate RUN.toml --force") from None


def tuned_score(folder: Path) -> float:
    """The first metric of the one task of a run: that by which settings are chosen."""
    _, trained = read_run(folder)
    (metrics,) = trained.scores.values()
    return next(iter(metrics.values()))


def _read_run(folder: Path) -> tuple[Measured, Measured]:
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    texts: dict[str, dict[str, str]] = {}
    documents = dict(scores.get("documents", {}))
    base, trained = (Measured({}, dict(scores[side]), texts, documents) for side in ("base", "trained"))
    for line, item in read_objects(folder / "per_query.jsonl"):
        try:
            texts.setdefault(item["task"], {})[item["query"]] = item.get("text", item["query"])
            for side, of in (("base", base), ("trained", trained)):
                of.items.setdefault(item["task"], {})[item["query"]] = _numbers(item[side])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(folder / "per_query.jsonl", f"{type(error).__name__}: {error}", line) from None
    for of in (base, trained):
        for task, metrics in of.scores.items():
            of.scores[task] = _numbers(metrics)
            if not task.startswith(MTEB):  # a score alone
                _require_whole(metrics, of.items.get(task, {}))
    return base, trained


def _require_whole(metrics: Mapping[str, float], items: Scores) -> None:
    """Make sure that the items are those of which the metrics were made.

    Raises:
        ValueError: they are not.
    """
    found = overall(items.values())
    if found.keys() != metrics.keys() or any(abs(found[name] - metrics[name]) > 1e-6 for name in found):
        raise ValueError(f"{len(items)} items in per_query.jsonl give {found}; scores.json says {dict(metrics)}")


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The same, if it is what it should be.

    Raises:
        ValueError: it is not.
    """
    if not metrics or any(not isinstance(value, int | float) or not isfinite(value) for value in metrics.values()):
        raise ValueError(f"found {metrics}; wanted a number for each metric")
    return dict(metrics)


def sample_of(trainings: Sequence[Scores], metric: str, ids: Sequence[str]) -> Sample:
    """One metric of all trainings, on the items with these ids."""
    values = [[scores[id][COSINE if metric == SPEARMAN else metric] for id in ids] for scores in trainings]
    return Sample.of(values, [trainings[0][id][GOLD] for id in ids] if metric == SPEARMAN else None)


def ids_of(scores: Scores, metric: str) -> list[str]:
    """The items that have the metric."""
    return [id for id, item in scores.items() if metric == SPEARMAN or metric in item]


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


def _identities(training: Measured, task: str) -> frozenset[tuple[str, str, float | None, frozenset[str]]]:
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


def tables(comparison: Comparison) -> str:
    """A table for each task: arms as rows, metrics as columns, then the first metric against the baseline."""
    return "\n\n".join(
        "\n".join([f"### {task}", "", *_table(comparison.baseline, metrics)])
        for task, metrics in comparison.tasks.items()
    )


def to_markdown(comparison: Comparison) -> str:
    """The tables, and then the items that moved most."""
    return "\n\n".join([tables(comparison), *_moves(comparison, TEXT_WIDTH)])


def for_terminal(comparison: Comparison, width: int = PLAIN) -> str:
    """The tables for somebody who sees the end of a text first: below the items that moved most, and in columns."""
    blocks = [
        "\n".join([f"{task}: differences from {named([comparison.baseline])}", *_lines(comparison, metrics, width)])
        for task, metrics in comparison.tasks.items()
    ]
    return "\n\n".join([*_moves(comparison, width), *blocks])


def _moves(comparison: Comparison, width: int) -> Iterator[str]:
    for task, arms in comparison.moved.items():
        for arm, moved in arms.items():
            if moved:
                heads = [f"- {m['before']:.3f} -> {m['after']:.3f}  " for m in moved]
                lines = [head + shortened(m["text"], width - len(head)) for head, m in zip(heads, moved, strict=True)]
                yield "\n".join([f"Moved most on {task}, {comparison.baseline} -> {arm}:", "", *lines])


def _table(baseline: str, metrics: Mapping[str, Mapping[str, ArmScore]]) -> Iterator[str]:
    first = next(iter(metrics))
    yield f"| arm | {' | '.join(metrics)} | {first} - {_plain(baseline)} | 95 % interval | p (Holm) | seeds |"
    yield "|" + " --- |" * (len(metrics) + 5)
    scores_of_first = metrics[first]
    for arm, score in scores_of_first.items():
        values = " | ".join(_value(scores[arm]) for scores in metrics.values())
        difference = " | ".join(_difference(score, scores_of_first[baseline]))
        yield f"| {_plain(arm)} | {values} | {difference} | {len(score.each)} |"


def _lines(comparison: Comparison, metrics: Mapping[str, Mapping[str, ArmScore]], width: int) -> Iterator[str]:
    """The first metric with all that is known of it, then the others, as many beside each other as find a place."""
    first, *others = metrics
    scores = metrics[first]
    rows = [("arm", first, "difference", "95 % interval", "p (Holm)", "seeds")]
    for arm, score in scores.items():
        figures = (_value(score), *_difference(score, scores[comparison.baseline]), str(len(score.each)))
        rows.append((_plain(arm), *figures))
    yield from columns(rows)
    names = max(map(len, (_plain(arm) for arm in scores)))
    beside = max(1, (width - names) // max(GAP, *(len(name) + 2 for name in metrics)))
    for start in range(0, len(others), beside):
        part = others[start : start + beside]
        values = [[_plain(arm), *(_value(metrics[name][arm]) for name in part)] for arm in scores]
        yield from ("", *columns([["arm", *part], *values]))


def _value(score: ArmScore) -> str:
    return f"{score.value:.3f}" + ("" if score.spread is None else f" ± {score.spread:.3f}")


def _difference(score: ArmScore, baseline: ArmScore) -> tuple[str, str, str]:
    """The difference, its interval and its p."""
    if score is baseline:
        return "", "", ""
    if score.difference is None:  # a task that has a score alone: there is nothing that could be drawn
        return f"{score.value - baseline.value:+.3f}", "", ""
    value, low, high = score.difference
    return f"{value:+.3f}", interval(low, high), "" if score.p is None else f"{score.p:.4f}"


def _plain(name: str) -> str:
    """A name that breaks no table."""
    return " ".join(name.replace("|", "/").split())
