"""The section `[grading]`: the judges, and the bounds of the grades."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Section


class GradingSection(Section):
    """How relevance is measured and cut into grades."""

    judge: list[Literal["embedding", "cross-encoder", "bm25", "llm"]] = Field(["embedding", "bm25"], min_length=1)
    """One or several. The first measures the grades; all must agree on the order, and that nothing is as relevant as
    the positive. `llm` measures nothing: it is asked whether the most relevant candidates answer the query."""
    judge_model: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2) or a sentence-transformers model. It also mines, and filters written queries."""
    judge_max_tokens: int = Field(256, ge=8)
    query_prompt: str | None = None
    """What the judge's model reads before queries in place of its own prompt (see `model.query_prompt`)."""
    document_prompt: str | None = None
    """The same before documents."""
    cross_encoder: str | None = None
    """The model of the judge `cross-encoder`."""
    bands: list[Annotated[float, Field(gt=0)]] = Field([0.3, 0.5, 0.7], min_length=3, max_length=3)
    """Relevance, as a share of the positive's, at which grades 2, 3 and 4 begin."""
    false_negative_above: float = Field(0.95, gt=0)
    keep_given: bool = False
    """Negatives that came with their pairs keep the grades that they came with; only the others are judged."""
    length_ratio: float = Field(3.0, gt=1)
    """How many times as long as its positive, or as short, a negative may be, in words."""
    repairs: int = Field(2, ge=0, le=8)
    """Times that the language model is asked once more for a grade that stayed empty."""
    round_trip: int = Field(3, ge=1)
    """A written query must find its own passage among so many first documents of the corpus."""
    most_answers: int = Field(5, ge=1)
    """A written query that fits more documents of the corpus nearly as well as its own passage is dropped."""

    @field_validator("judge", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _cross_encoder_is_named(self) -> "GradingSection":
        if "cross-encoder" in self.judge and not self.cross_encoder:
            raise ValueError('judge = "cross-encoder" also needs cross_encoder, a model such as a folder or hub name')
        return self

    @model_validator(mode="after")
    def _bands_rise(self) -> "GradingSection":
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bands and false_negative_above must rise: " + " < ".join(map(str, self.bounds)))
        return self

    @property
    def bounds(self) -> tuple[float, ...]:
        """The four bounds that `multigrain.records.grade_of` takes."""
        return (*self.bands, self.false_negative_above)
