"""The section `[data]`: pairs, corpus, and what is held out."""

from typing import Annotated

from pydantic import Field

from multigrain.config.base import Section


class DataSection(Section):
    """Settings of the data: pairs, corpus, and what is held out."""

    pairs: str | None = Field(None, min_length=1)
    """Source of the pairs: `beir:FOLDER:SPLIT`, `python-docs`, or a file or folder in a form of docs/interchange.md.
    None where the language model writes the pairs (`synthesis.mode`)."""
    corpus: str | None = None
    """Source of the corpus: `FILE.jsonl` or `beir:FOLDER`. The default is the corpus of `pairs`, else the positives."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | list[str] = 0.1
    """Share of the queries to hold out, or the sources (for `python-docs`: packages) to hold out whole."""
    dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training pairs by which choices are made, such as the weight of BM25 in the hybrid, or those of
    `tune`: they are not trained on. At most 500 pairs; none where that would be fewer than 200."""
    limit: int | None = Field(None, ge=1)
    """Largest number of training pairs; a seeded sample is kept."""
    drop_leaked: bool = False
    """Whether pairs whose query the evaluation asks too are left out. By default they are an error."""
