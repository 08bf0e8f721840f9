"""The section `[data]`: pairs, corpus, and what is held out."""

from typing import Annotated

from pydantic import Field

from multigrain.config.base import Section


class DataSection(Section):
    """Where the pairs and the corpus come from, and what is held out."""

    pairs: str | None = Field(None, min_length=1)
    """`beir:FOLDER:SPLIT`, `python-docs`, or a file or folder in one of the forms of docs/interchange.md; none
    where the language model writes the pairs too (`synthesis.mode`)."""
    corpus: str | None = None
    """`FILE.jsonl` or `beir:FOLDER`; by default the corpus that `pairs` brings, else the positives."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | list[str] = 0.1
    """Share of the queries to hold out, or the sources (for `python-docs`: packages) to hold out whole."""
    limit: int | None = Field(None, ge=1)
    """Most training pairs to keep (a seeded sample)."""
    drop_leaked: bool = False
    """Train without the pairs whose query the evaluation asks too, instead of refusing them."""
