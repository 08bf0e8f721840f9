"""The section `[evaluation]`: tasks and retrievers to measure."""

from difflib import get_close_matches
from typing import Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Precision, Section
from multigrain.config.model import one_line


class EvaluationSection(Section):
    """Settings of the evaluation of the trained model and its base."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """Tasks to measure: `held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see
    docs/evaluation.md."""
    instructions: dict[str, str] = {}
    """Instruction before the queries of a task, by the name in `tasks`, for a model trained with instructions: of a
    `beir:` task, which otherwise has the model's own, or of an `mteb:` task (also one of a benchmark), which otherwise
    has that of mteb. Pairs bring their own."""
    retrievers: list[Literal["dense", "bm25", "hybrid"]] = Field(["dense", "bm25", "hybrid"])
    """Retrievers to measure in search tasks: `dense` (the model's cosine), `bm25`, and `hybrid` (the weighted sum of
    both). `dense` is required. BM25 takes stop words and stemming from `mining.language`."""
    precision: Precision = "auto"
    """Precision of the matrix products in encoding. `bf16` is up to 2.8 times as fast on a CPU with instructions for
    it; `auto` is bf16 where the hardware computes it, else fp32."""
    mteb_data: str | None = None
    """Folder with data sets of the Hugging Face hub, each as OWNER/NAME, for `mteb:` tasks without access to the hub.
    By default they are downloaded from the hub."""

    @field_validator("instructions")
    @classmethod
    def _are_lines(cls, instructions: dict[str, str]) -> dict[str, str]:
        for task, instruction in instructions.items():
            try:
                one_line(instruction)
            except ValueError as error:
                raise ValueError(f'"{task}": {error}') from None
        return instructions

    @model_validator(mode="after")
    def _instruct_own_tasks(self) -> "EvaluationSection":
        for name in self.instructions:
            has_mteb = name.startswith("mteb:") and any(task.startswith("mteb:") for task in self.tasks)
            if name.startswith(("beir:", "mteb:")) and name not in self.tasks and not has_mteb:
                likely = get_close_matches(name, self.tasks) or self.tasks
                raise ValueError(f'instructions: "{name}" is not among tasks; wanted one such as "{likely[0]}"')
            if not name.startswith(("beir:", "mteb:")):
                raise ValueError(f'instructions: found "{name}"; wanted a beir: or mteb: task, others have pairs')
        return self

    @field_validator("retrievers")
    @classmethod
    def _has_the_model(cls, retrievers: list[str]) -> list[str]:
        if "dense" not in retrievers:
            raise ValueError(f'found {retrievers}; add "dense", the one that training changes')
        if len(set(retrievers)) < len(retrievers):
            raise ValueError(f"found {retrievers}; name each retriever once")
        return retrievers
