"""Choose the model to export: the run's own, an arm of the baseline, or the base.

The choice is made on the dev set (`data.dev_share`). Without one, it is made on one half of the items of a task, and
the chosen model is measured on the other half: on the items that decided, the best of several looks better than it is.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from multigrain.config import Config
from multigrain.data.jsonl import read_objects, read_objects_with
from multigrain.errors import RunError
from multigrain.evaluation.evaluate import Scores
from multigrain.evaluation.significance import Difference, ids_of, paired_bootstrap, sample_of
from multigrain.evaluation.tasks import HELD_OUT, MTEB
from multigrain.files import write_json
from multigrain.pipeline.arms import arms_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.verdict import BASE
from multigrain.terminal import interval, say

TRAINED = "trained"
FEW = 20
"""Minimum number of items: with fewer, a resample says little about other items."""


@dataclass(frozen=True)
class Choice:
    """The model to export, and why.

    Attributes:
        model: `trained`, the name of an arm, or `base`.
        reason: the reason, in words.
        over_base: model - base, with its 95 % interval, on items that played no part in the choice; None if there are
            too few.
        loss: model - base on all items, if its interval is below 0: the model has lost to its base.
    """

    model: str
    reason: str
    over_base: Difference | None = None
    loss: Difference | None = None


def settle(config: Config, run_dir: RunDir, force: bool) -> None:
    """Choose the model to export, and keep the choice in the run folder.

    Args:
        config: the run.
        run_dir: its folder, with the scores.
        force: export the best trained model even if the base is better.

    Raises:
        RunError: the best trained model has lost to the base, and `force` is off.
    """
    scores = json.loads(run_dir.scores.read_text(encoding="utf-8"))
    tasks = [task for task in scores["difference"] if not task.startswith(MTEB) and scores["items"].get(task)]
    chosen = Choice(TRAINED, "it is the run's own model; no task was measured item by item")
    if tasks:
        task = HELD_OUT if HELD_OUT in tasks else tasks[0]
        metric = next(iter(scores["difference"][task]))
        models = [TRAINED, *arms_of(config, run_dir), BASE]
        items, dev = _items(task, models, run_dir), _dev_items(metric, models, run_dir)
        chosen = choose(task, metric, items, config.seed, force, dev=dev)
    if chosen.loss and not force:
        value, low, high = chosen.loss
        raise RunError(
            f"{run_dir.folder}: nothing is exported, because the best trained model ({chosen.model}) has lost to its "
            f"base: {metric} {value:+.3f} {interval(low, high)} on {task}. Use the base as it is, or change the "
            "training. To see all figures: multigrain evaluate RUN.toml. To export the model anyway: multigrain export "
            "RUN.toml --force"
        )
    though = ", although it has lost to its base" if chosen.loss else ""
    say(f"  {chosen.model} is exported{though}: {chosen.reason}")
    write_json(run_dir.choice, asdict(chosen))


def read_choice(run_dir: RunDir) -> Choice:
    """Return the choice kept in the run folder; without one, the run's own model."""
    if not run_dir.choice.is_file():
        return Choice(TRAINED, "")
    return Choice(**json.loads(run_dir.choice.read_text(encoding="utf-8")))


def choose(
    task: str, metric: str, items: Mapping[str, Scores], seed: int, force: bool, *, dev: Mapping[str, Scores]
) -> Choice:
    """Choose the model with the highest metric on the dev queries, or on one half of the items; on a tie, the first.

    Args:
        task: name of the task, for the reason.
        metric: name of the metric.
        items: model -> item -> metric -> value; the run's own model first, the base last.
        seed: seed of the bootstrap.
        force: do not choose the base.
        dev: the same for the dev queries, which are not items of the task; empty if the run has no dev set.
    """
    ids = ids_of(items[BASE], metric)
    deciding, rest = (list(dev[BASE]), ids) if dev else halves(ids)
    if len(deciding) < FEW:
        reason = f"it is the run's own model; {len(ids)} items of {task} are too few for a choice ({2 * FEW} suffice)"
        chosen = Choice(TRAINED, reason)
    else:
        scored = dev or items
        values = {model: sample_of([scores], metric, deciding).each()[0] for model, scores in scored.items()}
        best = max((model for model in values if model != BASE), key=values.__getitem__)
        where = f"{len(deciding)} dev queries" if dev else f"one half ({len(deciding)} items) of {task}"
        chosen = _with_reason(best, metric, values, where)
    over_all = _over_base(chosen.model, metric, items, ids, seed)
    if len(ids) >= FEW and over_all.high < 0:
        return replace(chosen, loss=over_all)
    if len(deciding) >= FEW:
        if not force and values[BASE] > values[chosen.model]:
            return _with_reason(BASE, metric, values, where)
        over_base = _over_base(chosen.model, metric, items, rest, seed)
        measured = f"{over_base.value:+.3f} {interval(over_base.low, over_base.high)} over its base"
        told = f"on {task if dev else 'the other half'} {measured}"
        return replace(chosen, reason=f"{chosen.reason}; {told}", over_base=over_base)
    return chosen


def halves(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split items into two halves by a digest of their ids, independently of their order.

    >>> halves(["a", "b", "c", "d"])
    (['d', 'c'], ['b', 'a'])
    """
    shuffled = sorted(ids, key=_digest)
    return shuffled[: len(ids) // 2], shuffled[len(ids) // 2 :]


def _digest(id: str) -> str:
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()


def _with_reason(model: str, metric: str, values: Mapping[str, float], where: str) -> Choice:
    told = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    return Choice(model, f"best by {metric} on {where} ({told})")


def _over_base(model: str, metric: str, items: Mapping[str, Scores], ids: Sequence[str], seed: int) -> Difference:
    before, after = (sample_of([items[name]], metric, ids) for name in (BASE, model))
    return paired_bootstrap(before, after, seed)


def _items(task: str, models: Sequence[str], run_dir: RunDir) -> dict[str, Scores]:
    """Return the scores of each model on each item of a task."""
    found: dict[str, Scores] = {model: {} for model in models}
    for _, item in read_objects_with(run_dir.per_query, "task", task):
        for model, scores in found.items():
            scores[item["query"]] = item[model]
    return found


def _dev_items(metric: str, models: Sequence[str], run_dir: RunDir) -> dict[str, Scores]:
    """Return the scores of each model on each dev query; nothing if there are none, or none by this metric."""
    rows = [row for _, row in read_objects(run_dir.per_dev_query)] if run_dir.per_dev_query.is_file() else []
    if not rows or metric not in rows[0][BASE]:
        return {}
    return {model: {row["query"]: row[model] for row in rows} for model in models}


def as_exported(summary: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the figures of a run, with those of the exported model in place of its own model's.

    If an arm is exported, tasks of mteb are left out, because arms are not measured on them. The figures by source are
    those of the run's own model.
    """
    if model == TRAINED:
        return dict(summary)
    summary = {name: figures for name, figures in summary.items() if name != "by_source"}
    if model == BASE:
        return {**summary, "trained": summary["base"], "difference": _no_differences(summary["base"])}
    tasks = {task: others[model] for task, others in summary["others"].items() if model in others}
    trained = {task: arm["scores"] for task, arm in tasks.items()}
    return {**summary, "trained": trained, "difference": {task: arm["over_base"] for task, arm in tasks.items()}}


def _no_differences(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    return {task: dict.fromkeys(metrics, (0.0, None, None)) for task, metrics in scores.items()}
