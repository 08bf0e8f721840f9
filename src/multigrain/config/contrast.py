"""The settings of `[training]` that define the contrastive loss, named as in sentence-transformers."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Section

Direction = Literal["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"]
WITHOUT_POSITIVE = ("query_to_query", "doc_to_doc")
"""Directions whose candidates never include the positive."""


class ContrastSection(Section):
    """Settings of the comparisons that the loss makes; part of `[training]`, and an argument of `GradedLoss`.

    >>> ContrastSection(directions=["query_to_doc", "doc_to_query"], partition_mode="per_direction").positives
    'one'
    """

    directions: list[Direction] = ["query_to_doc"]
    """Comparisons in the loss: `query_to_doc` (each query with all documents; always required), `doc_to_query` (each
    positive with all queries), `query_to_query` and `doc_to_doc`. GTE (arXiv 2308.03281) uses all four."""
    partition_mode: Literal["joint", "per_direction"] = "joint"
    """`joint`: all directions share one softmax. `per_direction`: each has its own, and the losses are averaged."""
    hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] | None = None
    """Negatives that weigh more in the loss the nearer they are to the query: documents of other queries, the query's
    own negatives, or both. By default all negatives weigh the same."""
    hardness_strength: float = Field(0.0, ge=0)
    """Strength of that weighting: this times the cosine, without gradient, is added to the similarity of a negative.
    arXiv 2503.04812 uses 9, EmbeddingGemma 5."""
    positives: Literal["one", "all"] = "one"
    """Treatment of other known positives of a query in its batch: `one` leaves them out of the loss, `all` takes them
    as positives too (SupCon, arXiv 2004.11362)."""

    @model_validator(mode="before")
    @classmethod
    def _was_not_symmetric(cls, given: Any) -> Any:
        """Accept `symmetric = false` from run folders of earlier versions; it is still the default."""
        if isinstance(given, dict) and given.get("symmetric") is False:
            return {key: value for key, value in given.items() if key != "symmetric"}
        return given

    @field_validator("directions")
    @classmethod
    def _hold_the_positive(cls, directions: list[Direction]) -> list[Direction]:
        if "query_to_doc" not in directions:
            raise ValueError(f'found {directions}; add "query_to_doc", the only one that always includes the positive')
        if len(set(directions)) < len(directions):
            raise ValueError(f"found {directions}; name each direction once")
        return directions

    @model_validator(mode="after")
    def _agree(self) -> "ContrastSection":
        alone = [direction for direction in self.directions if direction in WITHOUT_POSITIVE]
        if self.partition_mode == "per_direction" and alone:
            raise ValueError(
                f'partition_mode = "per_direction" needs the positive in each direction, and {" and ".join(alone)} '
                'never includes it; set partition_mode = "joint", or remove the direction'
            )
        if self.hardness_mode and not self.hardness_strength:
            raise ValueError(
                f'hardness_mode = "{self.hardness_mode}" has no effect without hardness_strength; add one, such as 5'
            )
        if self.hardness_strength and not self.hardness_mode:
            raise ValueError(
                f"hardness_strength = {self.hardness_strength:g} has no effect without hardness_mode; add "
                'hardness_mode = "all_negatives", "in_batch_negatives" or "hard_negatives", or remove it'
            )
        return self
