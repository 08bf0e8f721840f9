"""The section `[evaluation]`: tasks and retrievers to measure."""

from typing import Literal

from pydantic import Field, field_validator

from multigrain.config.base import Precision, Section


class EvaluationSection(Section):
    """Settings of the evaluation of the trained model and its base."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """Tasks to measure: `held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see
    docs/evaluation.md."""
    retrievers: list[Literal["dense", "bm25", "hybrid"]] = Field(["dense", "bm25", "hybrid"])
    """Retrievers to measure in search tasks: `dense` (the model's cosine), `bm25`, and `hybrid` (the weighted sum of
    both). `dense` is required. BM25 takes stop words and stemming from `mining.language`."""
    precision: Precision = "auto"
    """Precision of the matrix products in encoding. `bf16` is up to 2.8 times as fast on a CPU with instructions for
    it; `auto` is bf16 where the hardware computes it, else fp32."""
    mteb_data: str | None = None
    """Folder with data sets of the Hugging Face hub, each as OWNER/NAME, for `mteb:` tasks without access to the hub.
    By default they are downloaded from the hub."""

    @field_validator("retrievers")
    @classmethod
    def _has_the_model(cls, retrievers: list[str]) -> list[str]:
        if "dense" not in retrievers:
            raise ValueError(f'found {retrievers}; add "dense", the one that training changes')
        if len(set(retrievers)) < len(retrievers):
            raise ValueError(f"found {retrievers}; name each retriever once")
        return retrievers
