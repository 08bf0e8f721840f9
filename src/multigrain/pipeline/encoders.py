"""The encoders of a run: which model each is, and the file that keeps its vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.config import Config, Precision
from multigrain.model.files import model_digest
from multigrain.model.prompts import prompts_of
from multigrain.model.roles import Embed, with_prompts
from multigrain.pipeline.run_dir import RunDir

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def judge_encoder(config: Config, run_dir: RunDir) -> Embed:
    """The encoder of the judge, which also mines."""
    section = config.grading
    judge = _Loaded(section.judge_model, section.judge_max_tokens, section.query_prompt, section.document_prompt)
    return judge.encoder("grading.judge_model", run_dir.judge_vectors, "judging")


def base_encoder(config: Config, run_dir: RunDir) -> Embed:
    """The encoder of the model that is trained, before training."""
    section, grading = config.model, config.grading
    precision = config.evaluation.precision
    base = _Loaded(section.base, section.max_tokens, section.query_prompt, section.document_prompt)
    # What the same model has encoded as the judge serves again.
    same = (section.base, section.max_tokens) == (grading.judge_model, grading.judge_max_tokens)
    path = run_dir.judge_vectors if same and precision == "fp32" else run_dir.base_vectors
    return base.encoder("model.base", path, "encoding (base)", precision)


def trained_encoder(folder: Path, path: Path, precision: Precision = "fp32") -> Embed:
    """The trained model's encoder; its vectors serve evaluation and search alike."""
    from multigrain.model.encode import CachedEncoder
    from multigrain.model.load import load_model

    name = str(folder)
    model_id = model_digest(name, precision)
    prompts = prompts_of(name)
    return CachedEncoder(lambda: load_model(folder), model_id, path, "encoding (trained)", prompts, precision)


@dataclass(frozen=True)
class _Loaded:
    """A model that is used as it is, and what settings change of it."""

    name: str
    max_tokens: int
    query_prompt: str | None
    document_prompt: str | None

    def encoder(self, key: str, path: Path, description: str, precision: Precision = "fp32") -> Embed:
        """Its encoder; `key` is the setting that names it."""
        from multigrain.model.encode import CachedEncoder

        model_id = model_digest(self.name, self.max_tokens, precision)
        own = prompts_of(self.name)
        prompts = None if own is None else with_prompts(own, self.query_prompt, self.document_prompt)
        return CachedEncoder(lambda: self._load(key), model_id, path, description, prompts, precision)

    def _load(self, key: str) -> "SentenceTransformer":
        from multigrain.model.load import load_base

        model = load_base(self.name, self.max_tokens, key)
        model.prompts = {**with_prompts(model.prompts, self.query_prompt, self.document_prompt)}
        return model
