"""The encoders of a run: the model of each, and the file that keeps its vectors."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.config import INSTRUCTION, Config, Precision
from multigrain.model.encode import CachedEncoder
from multigrain.model.engine import LOCAL, Engine
from multigrain.model.files import model_digest
from multigrain.model.prompts import prompts_of
from multigrain.model.roles import with_prompts
from multigrain.pipeline.run_dir import RunDir

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def judge_encoder(config: Config, run_dir: RunDir, engine: Engine = LOCAL) -> CachedEncoder:
    """Return the encoder of the judge, which is also used for mining; an engine does its work."""
    section = config.grading
    judge = _PretrainedModel(
        setting="grading.judge_model",
        name=section.judge_model,
        max_tokens=section.judge_max_tokens,
        query_prompt=section.query_prompt,
        document_prompt=section.document_prompt,
    )
    return judge.encoder(run_dir.judge_vectors, "judging", section.precision, "grading.precision", engine)


def models_of_shards(config: Config) -> dict[str, tuple[str, tuple[object, ...], str]]:
    """Return the models that shards of work load, by setting: name, settings of loading, and digest."""
    name, settings = config.grading.judge_model, (config.grading.judge_max_tokens,)
    return {"grading.judge_model": (name, settings, model_digest(name, *settings))}


def teacher_encoder(config: Config, run_dir: RunDir) -> CachedEncoder:
    """Return the encoder of a teacher that is an embedding model."""
    section = config.training.teacher
    assert section is not None  # only called with a teacher
    assert section.model is not None
    teacher = _PretrainedModel(
        setting="training.teacher.model",
        name=section.model,
        max_tokens=section.max_tokens,
        query_prompt=section.query_prompt,
        document_prompt=section.document_prompt,
    )
    return teacher.encoder(run_dir.teacher_vectors, "encoding (teacher)", config.grading.precision, "grading.precision")


def base_encoder(config: Config, run_dir: RunDir) -> CachedEncoder:
    """Return the encoder of the base, that is, of the model before training."""
    section, grading = config.model, config.grading
    base = _base(config)
    precision = config.evaluation.precision
    own = base.encoder(run_dir.base_vectors, "encoding (base)", precision, "evaluation.precision")
    if (section.base, section.max_tokens) != (grading.judge_model, grading.judge_max_tokens):
        return own
    # The base is also the judge: reuse its vectors if they have the same precision.
    if precision != grading.precision and own.precision != judge_encoder(config, run_dir).precision:
        return own
    return base.encoder(run_dir.judge_vectors, "encoding (base)", precision, "evaluation.precision")


def load_measured_base(config: Config) -> "SentenceTransformer":
    """Load the base as it is measured: with its own pooling, and the prompts of the run."""
    return _base(config).load()


def _base(config: Config) -> "_PretrainedModel":
    """Return the base as it is measured, with the prompts of the run.

    A template for instructions is left out, because only the trained model has learned to read it.
    """
    section = config.model
    return _PretrainedModel(
        setting="model.base",
        name=section.base,
        max_tokens=section.max_tokens,
        query_prompt=None if INSTRUCTION in (section.query_prompt or "") else section.query_prompt,
        document_prompt=section.document_prompt,
    )


def trained_encoder(folder: Path, path: Path, precision: Precision = "fp32") -> CachedEncoder:
    """Return the encoder of a trained model; its vectors are used in evaluation and in search.

    Args:
        folder: folder of the model.
        path: file of its vectors.
        precision: precision of the matrix products.
    """
    from multigrain.model.load import load_model

    name = str(folder)
    return CachedEncoder(
        load=partial(load_model, folder),
        model_id=model_digest(name),
        path=path,
        description="encoding (trained)",
        prompts=prompts_of(name),
        precision=precision,
    )


@dataclass(frozen=True)
class _PretrainedModel:
    """A model that is used without training, with the settings that change it."""

    setting: str
    """Key of the setting that names the model, for messages."""
    name: str
    max_tokens: int
    query_prompt: str | None
    document_prompt: str | None

    def encoder(
        self, path: Path, description: str, precision: Precision, key: str, engine: Engine = LOCAL
    ) -> CachedEncoder:
        """Return the model's encoder, which keeps its vectors in `path`; `key` is the setting of the precision."""
        own = prompts_of(self.name)
        return CachedEncoder(
            load=self.load,
            model_id=model_digest(self.name, self.max_tokens),
            path=path,
            description=description,
            prompts=None if own is None else with_prompts(own, self.query_prompt, self.document_prompt),
            precision=precision,
            setting=key,
            engine=engine,
        )

    def load(self) -> "SentenceTransformer":
        """Load the model, with its own pooling."""
        from multigrain.model.load import load_base

        model = load_base(self.name, self.max_tokens, self.setting)
        model.prompts = {**with_prompts(model.prompts, self.query_prompt, self.document_prompt)}
        return model
