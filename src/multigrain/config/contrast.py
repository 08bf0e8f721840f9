"""The settings of `[training]` that say what the contrastive loss compares, with the names of sentence-transformers."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Section

Direction = Literal["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"]
WITHOUT_POSITIVE = ("query_to_query", "doc_to_doc")
"""Directions whose candidates never hold the positive."""


class ContrastSection(Section):
    """What the loss tells the positive from; a part of `[training]`, and an argument of `GradedLoss`.

    >>> ContrastSection(directions=["query_to_doc", "doc_to_query"], partition_mode="per_direction").positives
    'one'
    """

    directions: list[Direction] = ["query_to_doc"]
    """What the loss compares with what: each query with all documents (always), each positive with all queries, queries
    with each other, documents with each other (GTE, arXiv 2308.03281, has all four)."""
    partition_mode: Literal["joint", "per_direction"] = "joint"
    """Whether all directions share one softmax, or each has its own and the losses are averaged."""
    hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] | None = None
    """Negatives that weigh more in the loss the nearer they are: documents of other queries, the query's own negatives,
    or both."""
    hardness_strength: float = Field(0.0, ge=0)
    """How much more: this times the cosine, without gradient, is added to their similarity (arXiv 2503.04812 has 9,
    EmbeddingGemma 5)."""
    positives: Literal["one", "all"] = "one"
    """Whether other known positives of a query in its batch are left out, or are positives too (SupCon,
    arXiv 2004.11362)."""

    @model_validator(mode="before")
    @classmethod
    def _was_not_symmetric(cls, given: Any) -> Any:
        """Run folders of earlier versions say `symmetric = false`, which is still the default."""
        if isinstance(given, dict) and given.get("symmetric") is False:
            return {key: value for key, value in given.items() if key != "symmetric"}
        return given

    @field_validator("directions")
    @classmethod
    def _hold_the_positive(cls, directions: list[Direction]) -> list[Direction]:
        if "query_to_doc" not in directions:
            raise ValueError(f'found {directions}; add "query_to_doc", which alone is sure to hold the positive')
        if len(set(directions)) < len(directions):
            raise ValueError(f"found {directions}; name each direction once")
        return directions

    @model_validator(mode="after")
    def _agree(self) -> "ContrastSection":
        alone = [direction for direction in self.directions if direction in WITHOUT_POSITIVE]
        if self.partition_mode == "per_direction" and alone:
            raise ValueError(
                f'partition_mode = "per_direction" wants the positive in each direction, and {" and ".join(alone)} '
                'never has it; write partition_mode = "joint", or take the direction out'
            )
        if self.hardness_mode and not self.hardness_strength:
            raise ValueError(
                f'hardness_mode = "{self.hardness_mode}" changes nothing without hardness_strength; add one, such as 5'
            )
        if self.hardness_strength and not self.hardness_mode:
            raise ValueError(
                f"hardness_strength = {self.hardness_strength:g} is of no use without hardness_mode; add "
                'hardness_mode = "all_negatives", "in_batch_negatives" or "hard_negatives", or take it out'
            )
        return self
