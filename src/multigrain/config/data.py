"""The section `[data]`: pairs, corpus, and the held-out part."""

from typing import Annotated

from pydantic import Field

from multigrain.config.base import Section


class DataSection(Section):
    """Settings of the data: pairs, corpus, and the held-out part."""

    pairs: str | None = Field(None, min_length=1)
    """Source of the pairs: `beir:FOLDER:SPLIT`, `python-docs`, or a file or folder in one of the forms of
    docs/interchange.md. Required, unless the language model writes the pairs (`synthesis.mode`)."""
    corpus: str | None = None
    """Source of the corpus: `FILE.jsonl` or `beir:FOLDER`. By default the corpus that belongs to `pairs`, else the
    positives."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | list[str] = 0.1
    """Share of the queries to hold out for the evaluation, or a list of sources (for `python-docs`: packages) to hold
    out whole."""
    dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training pairs to set aside as the dev set. It is not trained on; choices are made on it, such as
    the weight of BM25 in the hybrid retriever and the recipe of `multigrain tune`. It has at most 500 pairs. If the
    share is fewer than 200 pairs, there is no dev set."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of training pairs, drawn at random by the seed. By default all are used."""
    drop_leaked: bool = False
    """Whether to leave out training pairs whose query is also in the evaluation. By default such a pair is an error."""
