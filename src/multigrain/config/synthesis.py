"""The section `[synthesis]`: what the language model writes, and in which grades."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from multigrain.config.base import Grade, Section, Share


class ExampleSection(Section):
    """An example for the language model: a query, its positive, and negatives as you would write them."""

    query: str = Field(min_length=1)
    positive: str = Field(min_length=1)
    grade_1: str | None = None
    grade_2: str | None = None
    grade_3: str | None = None
    grade_4: str | None = None


QueryType = Literal["question", "situation", "keywords", "statement"]
Origin = Literal["llm", "mined", "both"]


class SynthesisSection(Section):
    """Settings of what the language model writes."""

    mode: Literal["negatives", "corpus", "tasks"] = "negatives"
    """What is written. `negatives`: negatives for given pairs. `corpus`: first queries for passages of `data.corpus`.
    `tasks`: first search tasks in `domains`, then pairs for them."""
    limit: int | None = Field(None, ge=0)
    """Largest number of training pairs (in mode `corpus`: passages) that the model is asked about; 0 has no negatives
    written. The model is never asked about more than training can see. The default is as many as that where
    `training.steps` is given, else 2,560."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    """Grades that are written. `sources` may take some out."""
    per_grade: int = Field(1, ge=1, le=16)
    sources: dict[Literal["1", "2", "3", "4"], Origin] = {}
    """Where the negatives of each grade come from, such as `{1 = "mined", 4 = "both"}`. The default is both."""
    prompt_style: Literal["auto", "per-grade", "all-grades"] = "auto"
    """`per-grade`: few-shot completions and a cloze, for small models; `all-grades`: one JSON answer to a chat
    message; `auto` tries both on a few pairs and takes the one whose grades come in the better order, but for the
    embedded model, which wants `per-grade`."""
    language: str | None = None
    """Language of written passages, such as "German". The default is the language of the given ones."""
    query_language: str | None = None
    """Language of written queries, where it differs from `language`."""
    domain: str | None = None
    """Subject of the texts, in a sentence or two. It stands in every prompt."""
    examples: list[ExampleSection] = []
    prompts: str | None = None
    """A folder with your own prompts. Each replaces the one of the same name in `multigrain/synthesis/prompts`."""
    query_types: list[QueryType] = Field(["question", "situation", "keywords", "statement"], min_length=1)
    """Types of query in mode `corpus`; passages take them in turn."""
    queries_per_passage: int = Field(1, ge=1, le=16)
    domains: list[Annotated[str, Field(min_length=1)]] = []
    """Fields in which search tasks are invented, in mode `tasks`."""
    tasks: int = Field(40, ge=1)
    """Number of search tasks over all domains and kinds, in mode `tasks`."""
    pairs_per_task: int = Field(10, ge=1)
    answer_tokens: int | None = Field(None, ge=8, le=10**6)
    """Longest answer, in tokens. The default suits texts as long as the positive is shown. Answers that were cut are
    asked for again by `--retry length`."""
    durable: bool = False
    """Whether every answer waits for the disk, so that not even a power cut loses one."""
    max_parked: Share = 0.1
    """Share of the requests that may stay without a usable answer before the exit code is 3."""

    @field_validator("sources", mode="before")
    @classmethod
    def _grades_as_text(cls, value: Any) -> Any:
        return {str(grade): origin for grade, origin in value.items()} if isinstance(value, dict) else value

    def grades_from(self, origin: Literal["llm", "mined"]) -> list[int]:
        """Grades that may come from the origin, in rising order."""
        wanted = {grade for grade in (1, 2, 3, 4) if self.sources.get(str(grade), "both") in (origin, "both")}  # type: ignore[call-overload]
        return sorted(wanted & set(self.grades) if origin == "llm" else wanted)
