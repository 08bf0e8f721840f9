"""The encoders of a run: which model each is, and the file that keeps its vectors."""

from pathlib import Path

from multigrain.config import Config, Precision
from multigrain.model.files import model_digest
from multigrain.model.locate import prompts_of
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
    model_id = model_digest(name, precision)
    prompts = prompts_of(name)
    return CachedEncoder(lambda: load_model(folder), model_id, path, "encoding (trained)", prompts, precision)


def _encoder_of(
    name: str, max_tokens: int, key: str, path: Path, description: str, precision: Precision = "fp32"
) -> Embed:
    from multigrain.model.encode import CachedEncoder
    from multigrain.model.load import load_base

    model_id = model_digest(name, max_tokens, precision)
    prompts = prompts_of(name)
    return CachedEncoder(lambda: load_base(name, max_tokens, key), model_id, path, description, prompts, precision)
