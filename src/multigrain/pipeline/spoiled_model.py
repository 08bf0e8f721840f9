"""Tell when the training has spoiled the model: its vectors have collapsed, or half of the base's score is lost."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multigrain.config import ModelSection, TrainingSection
from multigrain.errors import TrainingFailed
from multigrain.evaluation.tasks import HELD_OUT
from multigrain.model.files import folder_of
from multigrain.model.roles import ROLES, Embed
from multigrain.model.saved_settings import own_pooling
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair

COMPARED = 32
"""Pairs whose vectors show whether the model has collapsed."""
ONE_VECTOR, MANY = 1e-4, 1e-2
"""The largest 1 - cosine between two texts: below the one all vectors are the same, above the other they are not."""
TINY = 0.05
"""A base that scores less has nothing to lose."""
FEWEST = 5
"""Items of which half may not be lost by chance."""


def require_sound(run_dir: RunDir) -> None:
    """Make sure that the training has not spoiled the model, by what was measured.

    Raises:
        TrainingFailed: it has.
    """
    known = json.loads(run_dir.scores.read_text(encoding="utf-8"))
    if fault := known.get("fault"):
        told = f"{fault}. The figures are in {run_dir.scores.parent}, and nothing is exported"
        raise _failed(run_dir, told, known.get("cause"))


def _failed(run_dir: RunDir, fault: str, cause: str | None = None) -> TrainingFailed:
    """Return the error for a spoiled model; `cause` is what may have spoiled it before the first step."""
    rate = f"training.learning_rate is too high (by default it is {TrainingSection().learning_rate:g})"
    if cause:
        worse = f"{run_dir.folder}: the trained model is far worse than its base: {fault}. Most likely {cause}"
        return TrainingFailed(f"{worse} If that is not it, {rate}. Give the same command again with --force.")
    return TrainingFailed(
        f"{run_dir.folder}: the training has spoiled the model: {fault}. Most likely {rate}. "
        "Lower it, and give the same command again with --force."
    )


def pooling_cause(section: ModelSection) -> str | None:
    """Return what to say where training begins with another pooling than the base is measured with, or None.

    Anchor pooling begins as the mean. A base that names no pooling is measured with the mean, as
    sentence-transformers loads it.
    """
    folder = folder_of(section.base)
    own = (folder and own_pooling(folder)) or "mean"
    if own == section.pooling or (own, section.pooling) == ("mean", "anchor"):
        return None
    return (
        f'model.pooling = "{section.pooling}" is the cause: the base pools by {own}, so training began with other '
        "vectors than those that the base is measured by. Take the base's pooling, or train for longer."
    )


def collapse_fault(base: Embed, trained: Embed, pairs: Sequence[Pair], run_dir: RunDir) -> str | None:
    """Return what to say where the trained model gives all texts the same vector and the base does not, or None.

    Raises:
        TrainingFailed: its vectors are no numbers, so nothing can be measured.
    """
    spread = _spread(trained, pairs)
    if not np.isfinite(spread):
        raise _failed(run_dir, "its vectors are no numbers")
    if spread >= ONE_VECTOR or _spread(base, pairs) < MANY:
        return None
    return f"all texts have the same vector (the cosine between any two is above {1 - ONE_VECTOR:g})"


def _spread(embed: Embed, pairs: Sequence[Pair]) -> float:
    """Return the largest 1 - cosine between two queries, or two positives."""
    texts = {"query": [pair.query for pair in pairs], "document": [pair.positive for pair in pairs]}
    vectors = [embed(texts[role], role) for role in ROLES]
    return float(np.max([1 - (each @ each.T).min() for each in vectors]))


def lost_score_fault(scores: Mapping[str, Any]) -> str | None:
    """Return what to say where more than half of the base's score is surely lost, or None.

    The held-out task decides where it is measured; else the loss must show on every task.
    """
    tasks = [HELD_OUT] if HELD_OUT in scores["base"] else list(scores["base"])
    lost = []
    for task in tasks:
        metric, before = next(iter(scores["base"][task].items()))
        after, (_, _, high) = scores["trained"][task][metric], scores["difference"][task][metric]
        if before < TINY or after >= before / 2 or (high is not None and high >= 0):
            return None
        if scores["items"].get(task, FEWEST) < FEWEST:
            return None
        lost.append(f"{task}: {metric} was {before:.3f} before training, and is {after:.3f}")
    return "; ".join(lost)
