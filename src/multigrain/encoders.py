"""The encoders of a run: which model each is, and the file that keeps its vectors."""

import hashlib
from pathlib import Path

from multigrain.config import Config
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
    # What the same model has encoded as the judge serves again.
    same = base == (config.grading.judge_model, config.grading.judge_max_tokens)
    path = run_dir.judge_vectors if same else run_dir.base_vectors
    return _encoder_of(*base, "model.base", path, "encoding (base)")


def trained_encoder(folder: Path, path: Path) -> Embed:
    """The trained model's encoder; its vectors serve evaluation and search alike."""
    from multigrain.model.encode import CachedEncoder
    from multigrain.model.load import load_model

    name = str(folder)
    return CachedEncoder(lambda: load_model(folder), weights_digest(name), path, "encoding (trained)", prompts_of(name))


def _encoder_of(name: str, max_tokens: int, key: str, path: Path, description: str) -> Embed:
    from multigrain.model.encode import CachedEncoder
    from multigrain.model.load import load_base

    model_id = f"{name}, {max_tokens} tokens, {weights_digest(name)}"
    return CachedEncoder(lambda: load_base(name, max_tokens, key), model_id, path, description, prompts_of(name))


def weights_digest(name: str) -> str:
    """What tells a model from others, whatever its name."""
    digest = hashlib.sha256()
    for path in weight_files(name):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
