"""The arms of a run's baseline: models trained on the run's pairs with the stock sentence-transformers trainer."""

import json
from typing import Any

from multigrain.config import Config
from multigrain.evaluation.evaluate import Evaluation
from multigrain.evaluation.metrics import BM25, HYBRID, metric_by
from multigrain.model.encode import CachedEncoder
from multigrain.pipeline.encoders import trained_encoder
from multigrain.pipeline.run_dir import RunDir

IN_BATCH, MINED = "in-batch", "mined"
ARMS = (IN_BATCH, MINED)
WITHOUT_TRAINING = {BM25: "BM25", HYBRID: "base + BM25"}
"""Retriever measured with the base -> name of that search, which needs no training."""


def has_baseline(config: Config) -> bool:
    """Return whether the run may train a baseline."""
    against = config.baseline.against
    return against == "stock" or (against == "auto" and config.model.lora is None)


def described_baseline(config: Config) -> str:
    """Describe the baseline that the trained model will be compared with, besides its base."""
    if not has_baseline(config):
        return "none; to train one with sentence-transformers: --against stock"
    limits = "" if config.baseline.against == "stock" else ", if training and corpus are small"
    return f"stock sentence-transformers trainer, {' and '.join(ARMS)}, each for as long as the training{limits}"


def arms_of(config: Config, run_dir: RunDir) -> list[str]:
    """Return the names of the trained arms; none if the run has no baseline."""
    if not has_baseline(config) or not run_dir.arms.is_file():
        return []
    return list(json.loads(run_dir.arms.read_text(encoding="utf-8"))["arms"])


def arm_encoders(config: Config, run_dir: RunDir) -> dict[str, CachedEncoder]:
    """Return the encoder of each arm, by its name."""
    precision = config.evaluation.precision
    return {
        arm: trained_encoder(run_dir.baseline / arm, run_dir.arm_vectors(arm), precision)
        for arm in arms_of(config, run_dir)
    }


def compared_with_others(
    base: Evaluation, trained: Evaluation, arms: dict[str, Evaluation], seed: int
) -> dict[str, dict[str, Any]]:
    """Compare the trained model with each arm, and with searches that need no training, on one task.

    Returns:
        By name: `trained_over` (metric -> trained - other, with the ends of the 95 % interval); for arms also `scores`
        (metric -> value) and `over_base` (metric -> arm - base, with its interval).
    """
    from multigrain.evaluation.metrics import overall

    found: dict[str, dict[str, Any]] = {}
    for arm, measured in arms.items():
        found[arm] = {
            "scores": overall(measured.scores.values()),
            "trained_over": differences(measured, trained, seed),
            "over_base": differences(base, measured, seed),
        }
    for name, searched in _without_training(base).items():
        found[name] = {"trained_over": differences(searched, trained, seed)}
    return found


def _without_training(base: Evaluation) -> dict[str, Evaluation]:
    """Return the evaluations of BM25 alone, and of base and BM25 together, if they were measured with the base."""
    first = next(iter(next(iter(base.scores.values()), {})), "")
    found: dict[str, Evaluation] = {}
    for retriever, name in WITHOUT_TRAINING.items():
        metric = metric_by(retriever, first)
        scores = {id: {first: item[metric]} for id, item in base.scores.items() if metric in item}
        if scores:
            found[name] = Evaluation(scores)
    return found


def differences(before: Evaluation, after: Evaluation, seed: int) -> dict[str, Any]:
    """Return after - before for each shared metric, with the ends of its 95 % interval, paired over the items."""
    from multigrain.evaluation.metrics import overall
    from multigrain.evaluation.significance import ids_of, paired_bootstrap, sample_of

    shared, found = overall(after.scores.values()), {}
    for metric in overall(before.scores.values()):
        if metric in shared:
            ids = ids_of(before.scores, metric)
            one, other = (sample_of([measured.scores], metric, ids) for measured in (before, after))
            found[metric] = paired_bootstrap(one, other, seed)
    return found
