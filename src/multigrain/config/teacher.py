"""The section `[training.teacher]`: whose scores the loss `distill` follows, and how."""

from typing import Literal

from pydantic import Field, model_validator

from multigrain.config.base import Section


class TeacherSection(Section):
    """Settings of distillation. The defaults are those of CADET (arXiv 2505.19274)."""

    kind: Literal["fused", "cross-encoder", "embedder", "judge"]
    """Who scores. `fused` is the judge's cosine plus BM25, `cross-encoder` and `embedder` are a `model` of that kind,
    and `judge` takes the scores that grading has given to the negatives of the schedule."""
    model: str | None = None
    """The model of the teacher: a folder or a hub name."""
    max_tokens: int = Field(256, ge=8)
    """Longest text that `model` reads, in tokens."""
    query_prompt: str | None = None
    """Prompt of an `embedder` before queries, in place of its own (see `model.query_prompt`)."""
    document_prompt: str | None = None
    """Prompt of an `embedder` before documents, in place of its own."""
    bm25_weight: float = Field(0.3, gt=0)
    """What `fused` adds to the cosine for the document that BM25 ranks first; for others their share of its score."""
    documents: int = Field(20, ge=2, le=64)
    """Most documents of a query's list: its positive, its negatives, then the nearest that were mined for it."""
    temperature: float = Field(0.3, gt=0)
    """The teacher's scores, brought between 0 and 1, are divided by it; `training.temperature` is the student's."""
    infonce_weight: float = Field(0.1, ge=0)
    """Weight of InfoNCE beside the divergence from the teacher."""
    infonce_temperature: float = Field(0.01, gt=0)
    """Temperature of that InfoNCE."""
    false_negative_above: float = Field(0.6, gt=0)
    """Share of the list's highest score above which a negative is left out of InfoNCE."""

    @model_validator(mode="after")
    def _model_fits(self) -> "TeacherSection":
        has_model = self.kind in ("cross-encoder", "embedder")
        if has_model and self.model is None:
            raise ValueError(f'kind = "{self.kind}" also needs model, such as a folder or hub name')
        if not has_model and self.model is not None:
            raise ValueError(
                f'model is of no use with kind = "{self.kind}"; take it out, or name the kind of the model'
            )
        prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
        if self.kind != "embedder" and (given := [name for name, prompt in prompts.items() if prompt is not None]):
            raise ValueError(f'{given[0]} is of no use with kind = "{self.kind}"; take it out')
        return self
