"""The section `[evaluation]`: what is measured."""

from typing import Literal

from pydantic import Field, field_validator

from multigrain.config.base import Precision, Section


class EvaluationSection(Section):
    """Settings of the evaluation of the trained model and of its base."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """Tasks: Tasks: `held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see
    docs/evaluation.md."""
    retrievers: list[Literal["dense", "bm25", "hybrid"]] = Field(["dense", "bm25", "hybrid"])
    """How documents are ranked in searches: by the model's cosine, by BM25, and by their weighted sum. `dense` is
    always there. BM25 knows stop words and endings by `mining.language`."""
    precision: Precision = "auto"
    """Precision of encoding. `bf16` is up to 2.8 times as fast on a CPU that has instructions for it; `auto` decides
    by the hardware."""
    mteb_data: str | None = None
    """Folder with data sets of the hub, as OWNER/NAME, for `mteb:` tasks where the hub cannot be reached."""

    @field_validator("retrievers")
    @classmethod
    def _has_the_model(cls, retrievers: list[str]) -> list[str]:
        if "dense" not in retrievers:
            raise ValueError(f'found {retrievers}; wanted "dense" among them, for it is what is trained')
        if len(set(retrievers)) < len(retrievers):
            raise ValueError(f"found {retrievers}; wanted each once")
        return retrievers
