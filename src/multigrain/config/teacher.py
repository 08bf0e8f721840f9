"""The section `[training.teacher]`: the teacher of the loss `distill`."""

from typing import Literal

from pydantic import Field, model_validator

from multigrain.config.base import Section
from multigrain.config.model import INSTRUCTION


class TeacherSection(Section):
    """Settings of distillation. The defaults are those of CADET (arXiv 2505.19274)."""

    kind: Literal["fused", "cross-encoder", "embedder", "judge"]
    """Kind of teacher. `fused` scores by the judge's cosine plus BM25, `cross-encoder` and `embedder` by a `model` of
    that kind; `judge` reuses the scores that grading gave to the negatives of the schedule."""
    model: str | None = None
    """Model of the teacher: a folder or a hub name. Required for `cross-encoder` and `embedder`."""
    max_tokens: int = Field(256, ge=8)
    """Maximum length of a text for `model`, in tokens; longer texts are truncated."""
    query_prompt: str | None = None
    """Prompt before queries for an `embedder`, in place of its own (see `model.query_prompt`)."""
    document_prompt: str | None = None
    """Prompt before documents for an `embedder`, in place of its own."""
    bm25_weight: float = Field(0.3, gt=0)
    """Weight of BM25 in `fused`: the factor on a document's BM25, as a share of the query's highest, that is added to
    the cosine."""
    documents: int = Field(20, ge=2, le=64)
    """Maximum number of documents in a query's list: its positive, its negatives, then the nearest that were mined for
    it."""
    temperature: float = Field(0.3, gt=0)
    """Divisor of the teacher's scores, which are scaled to 0 to 1 first. The student's is `training.temperature`."""
    infonce_weight: float = Field(0.1, ge=0)
    """Weight of InfoNCE, added to the divergence from the teacher."""
    infonce_temperature: float = Field(0.01, gt=0)
    """Temperature of that InfoNCE."""
    false_negative_above: float = Field(0.6, gt=0)
    """Teacher's score, as a share of the highest in the list, above which a negative is left out of InfoNCE."""

    @model_validator(mode="after")
    def _model_fits(self) -> "TeacherSection":
        has_model = self.kind in ("cross-encoder", "embedder")
        if has_model and self.model is None:
            raise ValueError(f'kind = "{self.kind}" also needs model, a folder or a hub name')
        if not has_model and self.model is not None:
            raise ValueError(
                f'model has no effect with kind = "{self.kind}"; remove it, or set kind to the kind of the model'
            )
        if INSTRUCTION in (self.query_prompt or ""):
            raise ValueError(f"query_prompt: found {self.query_prompt!r}; a teacher reads no instructions of pairs")
        prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
        if self.kind != "embedder" and (given := [name for name, prompt in prompts.items() if prompt is not None]):
            raise ValueError(f'{given[0]} has no effect with kind = "{self.kind}"; remove it')
        return self
