"""The encoders of a run: which model each is, and the file that keeps its vectors."""

import hashlib
from pathlib import Path

from multigrain.config import Config, Precision
from multigrain.model.locate import prompts_of, weight_files
from multigrain.rundir import RunDir
from multigrain.vectors import Embed


def judge_encoder(config: Config, run_dir: RunDir) -> Embed:
    """The encoder of the judge, which also mines."""
    judge = config.grading.judge_model, config.grading.judge_max_tokens
    return _encoder_of(*judge, "grading.judge_model", run_dir.judge_vectors, "judging")


def base_encoder(config: Config, run_dir: RunDir) -> Embed:
    """The encoder of the model that is trained, before training."""
    base = config.model.base, config.model.max_tokens
    precision = config.evaluation.precision
    # What the same model has encoded as the judge serves again.
    same = base == (config.grading.judge_model, config.grading.judge_max_tokens) and precision == "fp32"
    path = run_dir.judge_vectors if same else run_dir.base_vectors
    return _encoder_of(*base, "model.base", path, "encoding (base)", precision)


def trained_encoder(folder: Path, path: Path, precision: Precision = "fp32") -> Embed:
    """The trained model's encoder; its vectors serve evaluation and search alike."""
    from multigrain.model.encode import CachedEncoder
    from multigrain.model.load import load_model

    name = str(folder)
    model_id = f"{weights_digest(name)}{_marked(precision)}"
    prompts = prompts_of(name)
    return CachedEncoder(lambda: load_model(folder), model_id, path, "encoding (trained)", prompts, precision)


def _marked(precision: Precision) -> str:
    """Vectors in half precision are others."""
    return "" if precision == "fp32" else f", {precision}"


def _encoder_of(
    name: str, max_tokens: int, key: str, path: Path, description: str, precision: Precision = "fp32"
) -> Embed:
    from multigrain.model.encode import CachedEncoder
    from multigrain.model.load import load_base

    model_id = f"{name}, {max_tokens} tokens, {weights_digest(name)}{_marked(precision)}"
    prompts = prompts_of(name)
    return CachedEncoder(lambda: load_base(name, max_tokens, key), model_id, path, description, prompts, precision)


def weights_digest(name: str) -> str:
    """What tells a model from others, whatever its name."""
    digest = hashlib.sha256()
    for path in weight_files(name):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
