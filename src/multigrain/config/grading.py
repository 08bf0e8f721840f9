"""The section `[grading]`: the judges, and the bounds of the grades."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Precision, Section


class GradingSection(Section):
    """Settings of grading: how the relevance of candidates is measured and divided into grades."""

    judge: list[Literal["embedding", "cross-encoder", "bm25", "llm"]] = Field(["embedding", "bm25"], min_length=1)
    """Judges of relevance, one name or a list. The first measures the grades. All must agree on the order of the
    grades, and that no negative is as relevant as the positive. `llm` measures nothing; it is asked whether the most
    relevant candidates answer the query."""
    judge_model: str = "embedded"
    """Model of the judge `embedding`: `embedded` (all-MiniLM-L6-v2) or a sentence-transformers model. It also mines
    negatives and filters written queries."""
    judge_max_tokens: int = Field(256, ge=8)
    """Maximum length of a text for the judge's model and the cross-encoder, in tokens; longer texts are truncated."""
    precision: Precision = "auto"
    """Precision of the matrix products in the judge's model, as `evaluation.precision`."""
    query_prompt: str | None = None
    """Prompt before queries for the judge's model, in place of its own (see `model.query_prompt`). With
    `{instruction}`, the judge reads the instructions of pairs; the other queries keep the model's own prompt."""
    document_prompt: str | None = None
    """Prompt before documents for the judge's model, in place of its own."""
    cross_encoder: str | None = None
    """Model of the judge `cross-encoder`: a folder or a hub name. Required for that judge."""
    bands: list[Annotated[float, Field(gt=0)]] = Field([0.3, 0.5, 0.7], min_length=3, max_length=3)
    """Lower bounds of grades 2, 3 and 4, in rising order: the relevance of a candidate divided by the positive's."""
    false_negative_above: float = Field(0.95, gt=0)
    """Relevance, divided by the positive's, from which a candidate is dropped as a false negative. Must be above all
    `bands`."""
    keep_given: bool = False
    """Whether negatives that come with their pairs keep their grades. Only the other candidates are judged then."""
    length_ratio: float = Field(3.0, gt=1)
    """Maximum ratio, in words, between the longer and the shorter of a written negative and its positive."""
    repairs: int = Field(2, ge=0, le=8)
    """Maximum number of rounds in which the language model is asked again for grades that stayed empty."""
    round_trip: int = Field(3, ge=1)
    """Worst rank at which a written query may find its own passage in the corpus; 1 is the nearest document."""
    most_answers: int = Field(5, ge=1)
    """Maximum number of documents that may fit a written query nearly as well as its own passage."""

    @field_validator("judge", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _cross_encoder_is_named(self) -> "GradingSection":
        if "cross-encoder" in self.judge and not self.cross_encoder:
            raise ValueError('judge = "cross-encoder" also needs cross_encoder, a folder or a hub name')
        return self

    @model_validator(mode="after")
    def _bands_rise(self) -> "GradingSection":
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bands and false_negative_above must rise: " + " < ".join(map(str, self.bounds)))
        return self

    @property
    def bounds(self) -> tuple[float, ...]:
        """Return the four bounds for `multigrain.records.grade_of`."""
        return (*self.bands, self.false_negative_above)
