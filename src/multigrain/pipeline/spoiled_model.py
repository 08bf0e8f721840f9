"""Detect that the training has spoiled the model: its vectors collapsed, or it lost half of the base's score."""

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
"""Number of pairs whose vectors show whether the model has collapsed."""
ONE_VECTOR, MANY = 1e-4, 1e-2
"""Bounds of the largest 1 - cosine between two texts: below the first, all vectors are the same; above the second, they
differ."""
TINY = 0.05
"""Score below which a base has nothing to lose."""
FEWEST = 5
"""Minimum number of items for a lost score to count; with fewer, half may be lost by chance."""


def require_sound(run_dir: RunDir) -> None:
    """Check, by the scores, that the training has not spoiled the model.

    Raises:
        TrainingFailed: the training has spoiled it.
    """
    known = json.loads(run_dir.scores.read_text(encoding="utf-8"))
    if fault := known.get("fault"):
        told = f"{fault}. The scores are in {run_dir.scores.parent}; nothing is exported"
        raise _failed(run_dir, told, known.get("cause"))


def _failed(run_dir: RunDir, fault: str, cause: str | None = None) -> TrainingFailed:
    """Return the error for a spoiled model; `cause` is a possible cause that precedes the first step."""
    rate = f"training.learning_rate is too high (the default is {TrainingSection().learning_rate:g})"
    if cause:
        worse = f"{run_dir.folder}: the trained model is far worse than its base: {fault}. Most likely {cause}"
        return TrainingFailed(f"{worse} Otherwise {rate}. Then run the same command with --force.")
    return TrainingFailed(
        f"{run_dir.folder}: the training has spoiled the model: {fault}. Most likely {rate}. "
        "Lower it, and run the same command with --force."
    )


def pooling_cause(section: ModelSection) -> str | None:
    """Return a message if training starts with another pooling than the base is measured with, else None.

    Anchor pooling starts close to mean pooling. A base that names no pooling is measured with mean pooling, as
    sentence-transformers loads it.
    """
    folder = folder_of(section.base)
    own = (folder and own_pooling(folder)) or "mean"
    if section.pooling in ("base", own) or (own, section.pooling) == ("mean", "anchor"):
        return None
    return (
        f'model.pooling = "{section.pooling}" is the cause: the base uses {own} pooling, so training started from '
        "other vectors than the base's. Use the pooling of the base, or train for longer."
    )


def collapse_fault(base: Embed, trained: Embed, pairs: Sequence[Pair], run_dir: RunDir) -> str | None:
    """Return a message if the trained model gives all texts the same vector and the base does not, else None.

    Raises:
        TrainingFailed: its vectors are not finite, so nothing can be measured.
    """
    spread = _spread(trained, pairs)
    if not np.isfinite(spread):
        raise _failed(run_dir, "its vectors are not finite")
    if spread >= ONE_VECTOR or _spread(base, pairs) < MANY:
        return None
    return f"all texts have the same vector (the cosine between any two is above {1 - ONE_VECTOR:g})"


def _spread(embed: Embed, pairs: Sequence[Pair]) -> float:
    """Return the largest 1 - cosine between two queries, or between two positives."""
    texts = {"query": [pair.query for pair in pairs], "document": [pair.positive for pair in pairs]}
    vectors = [embed(texts[role], role) for role in ROLES]
    return float(np.max([1 - (each @ each.T).min() for each in vectors]))


def lost_score_fault(scores: Mapping[str, Any]) -> str | None:
    """Return a message if the model has certainly lost more than half of the base's score, else None.

    The held-out task decides if it is measured; otherwise the loss must show on every task.
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
