"""The arms of the baseline that a run has: models that sentence-transformers has trained on the run's pairs."""

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
"""Searches that need no training, by the retriever that the base was measured with."""


def has_baseline(config: Config) -> bool:
    """Tell whether the run may train what its own model is compared with."""
    against = config.baseline.against
    return against == "stock" or (against == "auto" and config.model.lora is None)


def described_baseline(config: Config) -> str:
    """Say what the trained model will be compared with, beside its base."""
    if not has_baseline(config):
        return "none; --against stock trains with sentence-transformers too"
    limits = "" if config.baseline.against == "stock" else ", if that and mining take minutes"
    return f"sentence-transformers' own trainer, {' and '.join(ARMS)}, each for as long as the training{limits}"


def arms_of(config: Config, run_dir: RunDir) -> list[str]:
    """Return the names of the arms that are trained; none where the run has no baseline."""
    if not has_baseline(config) or not run_dir.arms.is_file():
        return []
    return list(json.loads(run_dir.arms.read_text(encoding="utf-8"))["arms"])


def arm_encoders(config: Config, run_dir: RunDir) -> dict[str, CachedEncoder]:
    """Return the encoder of each arm, by the arm's name."""
    precision = config.evaluation.precision
    return {
        arm: trained_encoder(run_dir.baseline / arm, run_dir.arm_vectors(arm), precision)
        for arm in arms_of(config, run_dir)
    }


def compared_with_others(
    base: Evaluation, trained: Evaluation, arms: dict[str, Evaluation], seed: int
) -> dict[str, dict[str, Any]]:
    """Compare the trained model with each arm, and with what BM25 finds without any training, on one task.

    Returns:
        By name: `trained_over` (metric -> trained - it, and the ends of the 95 % interval); of arms `scores` (metric ->
        value) and `over_base` (metric -> arm - base, and the same) too.
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
    """Return what is found by BM25 alone, and by base and BM25 together, where they were measured beside the base."""
    first = next(iter(next(iter(base.scores.values()), {})), "")
    found: dict[str, Evaluation] = {}
    for retriever, name in WITHOUT_TRAINING.items():
        metric = metric_by(retriever, first)
        scores = {id: {first: item[metric]} for id, item in base.scores.items() if metric in item}
        if scores:
            found[name] = Evaluation(scores)
    return found


def differences(before: Evaluation, after: Evaluation, seed: int) -> dict[str, Any]:
    """Return after - before in each metric of both, with the ends of its 95 % interval, paired over the items."""
    from multigrain.evaluation.metrics import overall
    from multigrain.evaluation.significance import ids_of, paired_bootstrap, sample_of

    shared, found = overall(after.scores.values()), {}
    for metric in overall(before.scores.values()):
        if metric in shared:
            ids = ids_of(before.scores, metric)
            one, other = (sample_of([measured.scores], metric, ids) for measured in (before, after))
            found[metric] = paired_bootstrap(one, other, seed)
    return found
