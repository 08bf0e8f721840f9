"""The section `[mining]`: how documents of the corpus become candidates."""

from typing import Literal

from pydantic import Field

from multigrain.config.base import Grade, Section


class MiningSection(Section):
    """Settings of mining: how documents of the corpus fill the grades."""

    enabled: bool = True
    methods: list[Literal["embedding", "bm25"]] = Field(["embedding", "bm25"], min_length=1)
    """How documents are found. `embedding` chooses among all documents of a grade (see `nearest`); `bm25` takes those
    that rank first."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    nearest: list[Grade] = [4]
    """Grades whose documents are those nearest to the query. Documents of the other grades are drawn at random."""
    per_grade: int = Field(6, ge=1, le=16)
    """Candidates that each method brings for each grade; grading chooses among them."""
    language: str = "english"
    """Language of the corpus, by which `bm25` knows stop words and endings."""
