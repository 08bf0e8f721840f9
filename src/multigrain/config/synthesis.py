"""The section `[synthesis]`: the texts that the language model writes, and their grades."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from multigrain.config.base import Grade, Section, Share


class ExampleSection(Section):
    """A few-shot example for the language model: a query, its positive, and negatives as you would write them."""

    query: str = Field(min_length=1)
    """Query of the example."""
    positive: str = Field(min_length=1)
    """Document that answers the query."""
    grade_1: str | None = None
    """Negative of grade 1, the easiest."""
    grade_2: str | None = None
    """Negative of grade 2."""
    grade_3: str | None = None
    """Negative of grade 3."""
    grade_4: str | None = None
    """Negative of grade 4, the hardest."""


QueryType = Literal["question", "situation", "keywords", "statement"]
Origin = Literal["llm", "mined", "both"]


class SynthesisSection(Section):
    """Settings of the texts that the language model writes."""

    mode: Literal["negatives", "corpus", "tasks"] = "negatives"
    """Texts to write. `negatives`: negatives for given pairs. `corpus`: queries for passages of `data.corpus`, then
    negatives. `tasks`: search tasks in `domains`, pairs for them, then negatives. With `data.sources`, each source has
    its own `mode`."""
    limit: int | None = Field(None, ge=0)
    """Maximum number of training pairs (in mode `corpus`: passages) to ask the language model about; 0 writes no
    negatives. It is never asked about more pairs than training can see. The default is that number if
    `training.steps` is given, else 2,560. With `data.sources`, it counts pairs only; the passages of a source are
    limited by its own `limit`."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    """Grades that are written. `sources` may exclude some."""
    per_grade: int = Field(1, ge=1, le=16)
    """Number of negatives per pair and grade: to write, and to keep after grading."""
    sources: dict[Literal["1", "2", "3", "4"], Origin] = {}
    """Origin of the negatives of each grade, such as `{1 = "mined", 4 = "both"}`. A grade that is not named takes
    both."""
    prompt_style: Literal["auto", "per-grade", "all-grades"] = "auto"
    """Form of the prompts. `per-grade`: few-shot completions and a cloze, for small models. `all-grades`: one chat
    message with one JSON answer. `auto`: both are tried on a few pairs, and the style whose grades are better ordered
    is used; the embedded model uses `per-grade` without a trial."""
    language: str | None = None
    """Language of written passages, such as "German". By default the language of the given texts."""
    query_language: str | None = None
    """Language of written queries. By default the same as `language`."""
    domain: str | None = None
    """Subject of the texts, in a sentence or two. Every prompt includes it."""
    examples: list[ExampleSection] = []
    """Few-shot examples of your own, in place of the packaged ones."""
    prompts: str | None = None
    """Folder with prompts of your own. Each file replaces the one of the same name in
    `multigrain/synthesis/prompts`."""
    query_types: list[QueryType] = Field(["question", "situation", "keywords", "statement"], min_length=1)
    """Types of query to write in mode `corpus`; passages take them in turn."""
    queries_per_passage: int = Field(1, ge=1, le=16)
    """Number of queries to write for each passage, in mode `corpus`."""
    domains: list[Annotated[str, Field(min_length=1)]] = []
    """Fields such as "cooking" in which search tasks are invented. Required in mode `tasks`."""
    tasks: int = Field(40, ge=1)
    """Number of search tasks over all domains and kinds, in mode `tasks`."""
    pairs_per_task: int = Field(10, ge=1)
    """Maximum number of pairs to write for each search task, in mode `tasks`."""
    answer_tokens: int | None = Field(None, ge=8, le=10**6)
    """Maximum length of an answer, in tokens. By default it suits texts as long as the positive. Truncated
    answers are requested again by `--retry length`."""
    durable: bool = False
    """Whether to wait until every answer is on disk, so that not even a power cut loses one."""
    max_parked: Share = 0.1
    """Maximum share of requests without a usable answer. Above it, the exit code is 3."""

    @field_validator("sources", mode="before")
    @classmethod
    def _grades_as_text(cls, value: Any) -> Any:
        return {str(grade): origin for grade, origin in value.items()} if isinstance(value, dict) else value

    def grades_from(self, origin: Literal["llm", "mined"]) -> list[int]:
        """Return the grades that may come from the origin, in rising order."""
        wanted = {grade for grade in (1, 2, 3, 4) if self.sources.get(str(grade), "both") in (origin, "both")}  # type: ignore[call-overload]
        return sorted(wanted & set(self.grades) if origin == "llm" else wanted)
