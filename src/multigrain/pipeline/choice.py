"""Choose what is exported: the run's own model, an arm of the baseline, or the base.

The choice is made on the queries that are kept for choices (`data.dev_share`). Where there are none, it is made on one
half of the items of a task, and the figure of what is chosen is taken on the other half: on the items by which it was
chosen, the best of several looks better than it is.
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
"""Items so few that a resample says little about others."""


@dataclass(frozen=True)
class Choice:
    """The model that is exported, and why.

    Attributes:
        model: `trained`, the name of an arm, or `base`.
        reason: why, for people.
        over_base: model - base, with its 95 % interval, on the items that had no say in the choice; None where there
            are too few.
        loss: model - base on all items, where its interval is below 0: the model has lost to its base.
    """

    model: str
    reason: str
    over_base: Difference | None = None
    loss: Difference | None = None


def settle(config: Config, run_dir: RunDir, force: bool) -> None:
    """Choose what is exported, and keep the choice in the run folder.

    Args:
        config: the run.
        run_dir: its folder, with what was measured.
        force: export the best trained model even where the base is better.

    Raises:
        RunError: the best trained model has lost to the base, and `force` is off.
    """
    scores = json.loads(run_dir.scores.read_text(encoding="utf-8"))
    tasks = [task for task in scores["difference"] if not task.startswith(MTEB) and scores["items"].get(task)]
    chosen = Choice(TRAINED, "it is the run's own: nothing was measured item by item")
    if tasks:
        task = HELD_OUT if HELD_OUT in tasks else tasks[0]
        metric = next(iter(scores["difference"][task]))
        models = [TRAINED, *arms_of(config, run_dir), BASE]
        items, dev = _items(task, models, run_dir), _dev_items(metric, models, run_dir)
        chosen = choose(task, metric, items, config.seed, force, dev=dev)
    if chosen.loss and not force:
        value, low, high = chosen.loss
        raise RunError(
            f"{run_dir.folder}: nothing is exported, for the best trained model ({chosen.model}) has lost to its base: "
            f"{metric} {value:+.3f} {interval(low, high)} on {task}. Use the base as it is, or train otherwise; "
            "multigrain evaluate RUN.toml shows all figures, multigrain export RUN.toml --force exports it even so."
        )
    though = ", though it has lost to its base" if chosen.loss else ""
    say(f"  {chosen.model} is exported{though}: {chosen.reason}")
    write_json(run_dir.choice, asdict(chosen))


def read_choice(run_dir: RunDir) -> Choice:
    """Return the choice that was kept; the run's own model where there is none."""
    if not run_dir.choice.is_file():
        return Choice(TRAINED, "")
    return Choice(**json.loads(run_dir.choice.read_text(encoding="utf-8")))


def choose(
    task: str, metric: str, items: Mapping[str, Scores], seed: int, force: bool, *, dev: Mapping[str, Scores]
) -> Choice:
    """Choose the model with the highest metric on the dev queries, or on one half of the items; of equals the first.

    Args:
        task: its name, for the reason.
        metric: its name.
        items: model -> item -> metric -> value; the run's own model first, the base last.
        seed: of the bootstrap.
        force: leave the base out.
        dev: the same of the dev queries, which are no items of the task; empty where the run keeps none.
    """
    ids = ids_of(items[BASE], metric)
    deciding, rest = (list(dev[BASE]), ids) if dev else halves(ids)
    if len(deciding) < FEW:
        reason = f"it is the run's own, and {len(ids)} items of {task} are too few to choose by ({2 * FEW} are enough)"
        chosen = Choice(TRAINED, reason)
    else:
        scored = dev or items
        values = {model: sample_of([scores], metric, deciding).each()[0] for model, scores in scored.items()}
        best = max((model for model in values if model != BASE), key=values.__getitem__)
        where = f"{len(deciding)} dev queries" if dev else f"{len(deciding)} items of {task}, half of them"
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
    """Cut items into two halves by a digest of their ids: the same ones whatever the order of the items.

    >>> halves(["a", "b", "c", "d"])
    (['d', 'c'], ['b', 'a'])
    """
    shuffled = sorted(ids, key=_digest)
    return shuffled[: len(ids) // 2], shuffled[len(ids) // 2 :]


def _digest(id: str) -> str:
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()


def _with_reason(model: str, metric: str, values: Mapping[str, float], where: str) -> Choice:
    told = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    return Choice(model, f"the best by {metric} on {where} ({told})")


def _over_base(model: str, metric: str, items: Mapping[str, Scores], ids: Sequence[str], seed: int) -> Difference:
    before, after = (sample_of([items[name]], metric, ids) for name in (BASE, model))
    return paired_bootstrap(before, after, seed)


def _items(task: str, models: Sequence[str], run_dir: RunDir) -> dict[str, Scores]:
    """Read what each model has scored on each item of a task."""
    found: dict[str, Scores] = {model: {} for model in models}
    for _, item in read_objects_with(run_dir.per_query, "task", task):
        for model, scores in found.items():
            scores[item["query"]] = item[model]
    return found


def _dev_items(metric: str, models: Sequence[str], run_dir: RunDir) -> dict[str, Scores]:
    """Read what each model has scored on each dev query; nothing where there are none, or not by this metric."""
    rows = [row for _, row in read_objects(run_dir.per_dev_query)] if run_dir.per_dev_query.is_file() else []
    if not rows or metric not in rows[0][BASE]:
        return {}
    return {model: {row["query"]: row[model] for row in rows} for model in models}


def as_exported(summary: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the figures of a run with those of what is exported in the place of its own model's.

    Tasks of mteb are left out where another model than the run's own is exported: they measure no other.
    """
    if model == TRAINED:
        return dict(summary)
    if model == BASE:
        return {**summary, "trained": summary["base"], "difference": _no_differences(summary["base"])}
    tasks = {task: others[model] for task, others in summary["others"].items() if model in others}
    trained = {task: arm["scores"] for task, arm in tasks.items()}
    return {**summary, "trained": trained, "difference": {task: arm["over_base"] for task, arm in tasks.items()}}


def _no_differences(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    return {task: dict.fromkeys(metrics, (0.0, None, None)) for task, metrics in scores.items()}
