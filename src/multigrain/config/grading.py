"""The section `[grading]`: the judges, and the bounds of the grades."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Precision, Section


class GradingSection(Section):
    """Settings of grading: how relevance is measured and cut into grades."""

    judge: list[Literal["embedding", "cross-encoder", "bm25", "llm"]] = Field(["embedding", "bm25"], min_length=1)
    """Judges of relevance. The first measures the grades. All must agree on the order, and that no negative is as
    relevant as the positive. `llm` measures nothing; it is asked whether the most relevant candidates answer the
    query."""
    judge_model: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2) or a sentence-transformers model. It also mines, and filters written queries."""
    judge_max_tokens: int = Field(256, ge=8)
    precision: Precision = "auto"
    """Precision in which the judge's model encodes, as `evaluation.precision`."""
    query_prompt: str | None = None
    """Prompt of the judge's model before queries, in place of its own (see `model.query_prompt`)."""
    document_prompt: str | None = None
    """Prompt of the judge's model before documents, in place of its own."""
    cross_encoder: str | None = None
    """The model of the judge `cross-encoder`."""
    bands: list[Annotated[float, Field(gt=0)]] = Field([0.3, 0.5, 0.7], min_length=3, max_length=3)
    """Relevance, as a share of the positive's, at which grades 2, 3 and 4 begin."""
    false_negative_above: float = Field(0.95, gt=0)
    keep_given: bool = False
    """Whether negatives that came with their pairs keep their grades; then only the others are judged."""
    length_ratio: float = Field(3.0, gt=1)
    """Largest ratio, in words, between the lengths of a negative and of its positive."""
    repairs: int = Field(2, ge=0, le=8)
    """Rounds in which the language model is asked again for grades that stayed empty."""
    round_trip: int = Field(3, ge=1)
    """Rank up to which a written query must find its own passage in the corpus."""
    most_answers: int = Field(5, ge=1)
    """Largest number of documents that may fit a written query nearly as well as its own passage."""

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
        """The four bounds for `multigrain.records.grade_of`."""
        return (*self.bands, self.false_negative_above)
