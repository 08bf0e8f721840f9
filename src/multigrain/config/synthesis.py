"""The sections `[synthesis]` and `[mining]`: where negatives come from, and in which grades."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from multigrain.config.base import Grade, Section, Share


class ExampleSection(Section):
    """A query with its positive, and negatives of it as you would write them: the language model is shown them."""

    query: str = Field(min_length=1)
    positive: str = Field(min_length=1)
    grade_1: str | None = None
    grade_2: str | None = None
    grade_3: str | None = None
    grade_4: str | None = None


QueryType = Literal["question", "situation", "keywords", "statement"]
Origin = Literal["llm", "mined", "both"]


class SynthesisSection(Section):
    """What the language model is asked to write."""

    mode: Literal["negatives", "corpus", "tasks"] = "negatives"
    """`negatives` for given pairs; `corpus`: queries for passages of `data.corpus` first; `tasks`: first search
    tasks in `domains`, then pairs for them."""
    limit: int | None = Field(None, ge=0)
    """Most training pairs (`corpus`: passages) to ask about; 0 asks the model for no negatives. It is never asked about
    more than training can see (`pairs_asked`)."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    """Those that are written; `sources` may take some out."""
    per_grade: int = Field(1, ge=1, le=16)
    sources: dict[Literal["1", "2", "3", "4"], Origin] = {}
    """Where the negatives of a grade come from, such as `{1 = "mined", 4 = "both"}`; by default from both."""
    prompt_style: Literal["auto", "per-grade", "all-grades"] = "auto"
    """`per-grade`: few-shot completions and a cloze, for small models; `all-grades`: one JSON answer to a chat
    message; `auto` tries both on a few pairs and takes the one whose grades come in the better order, but for the
    embedded model, which wants `per-grade`."""
    language: str | None = None
    """Of the passages that are written, such as "German"; by default that of the passages that are there."""
    query_language: str | None = None
    """Of the queries that are written, if it is another."""
    domain: str | None = None
    """What the texts are about, in a sentence or two: every prompt says it."""
    examples: list[ExampleSection] = []
    prompts: str | None = None
    """A folder with prompts of yours; each replaces the packaged one of its name, in `multigrain/synthesis/prompts`."""
    query_types: list[QueryType] = Field(["question", "situation", "keywords", "statement"], min_length=1)
    """Mode `corpus`: each passage is asked for one of them, in turn."""
    queries_per_passage: int = Field(1, ge=1, le=16)
    domains: list[Annotated[str, Field(min_length=1)]] = []
    """Mode `tasks`: the fields to invent search tasks for."""
    tasks: int = Field(40, ge=1)
    """Mode `tasks`: how many, over all domains and kinds."""
    pairs_per_task: int = Field(10, ge=1)
    answer_tokens: int | None = Field(None, ge=8, le=10**6)
    """Longest answer; by default enough for texts of the positive's shown length. What was cut is
    asked again by `--retry length`."""
    durable: bool = False
    """Wait for the disk with every commit of an answer: then not even a power cut loses one."""
    max_parked: Share = 0.1
    """Share of the requests that may stay without a usable answer before the exit code is 3."""

    @field_validator("sources", mode="before")
    @classmethod
    def _grades_as_text(cls, value: Any) -> Any:
        return {str(grade): origin for grade, origin in value.items()} if isinstance(value, dict) else value

    def grades_from(self, origin: Literal["llm", "mined"]) -> list[int]:
        """The grades that may come from there, in rising order."""
        wanted = {grade for grade in (1, 2, 3, 4) if self.sources.get(str(grade), "both") in (origin, "both")}  # type: ignore[call-overload]
        return sorted(wanted & set(self.grades) if origin == "llm" else wanted)


class MiningSection(Section):
    """How neighbours from the corpus fill the grades."""

    enabled: bool = True
    methods: list[Literal["embedding", "bm25"]] = Field(["embedding", "bm25"], min_length=1)
    """`embedding` draws from all documents of a grade, `bm25` takes those that share most words with the query."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    per_grade: int = Field(6, ge=1, le=16)
    """Candidates of each method; grading chooses among them."""
    language: str = "english"
    """Of the corpus, for `bm25`: its stop words and endings, where they are known."""
