"""The section `[mining]`: how hard negatives are found in the corpus."""

from typing import Literal

from pydantic import Field

from multigrain.config.base import Grade, Section


class MiningSection(Section):
    """Settings of mining: how documents of the corpus become candidates for the grades."""

    enabled: bool = True
    """Whether candidates are mined."""
    methods: list[Literal["embedding", "bm25"]] = Field(["embedding", "bm25"], min_length=1)
    """Methods of finding documents. `embedding` chooses among all documents of a grade (see `nearest`); `bm25` takes
    the documents of the grade that BM25 ranks first."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    """Grades that are mined. `synthesis.sources` may exclude some."""
    nearest: list[Grade] = [4]
    """Grades in which `embedding` takes the documents nearest to the query. In the other grades it draws documents at
    random."""
    per_grade: int = Field(6, ge=1, le=16)
    """Maximum number of candidates per pair that each method finds in each grade; grading chooses among them."""
    language: str = "english"
    """Language of the corpus, which sets the stop words and the stemming of BM25."""
