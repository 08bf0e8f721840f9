"""Types shared by encoders and their callers, and the choice of the prompt for a role. Does not import torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""Vectors of texts: (number of texts, dimension)."""

Role = Literal["query", "document"]
"""The role of a text: many models put a prompt before queries, and some put another one before documents."""

Embed = Callable[[Sequence[str], Role], Vectors]
"""Maps texts in one role to vectors of length 1, so a dot product is a cosine."""

ROLES: tuple[Role, ...] = ("query", "document")
PROMPT_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""The names under which models store the prompt of a role. `encode_document` of sentence-transformers tries the
same three, but gives every model an empty "document" prompt, so it never reaches the others."""


def prompt_for(role: Role, prompts: Mapping[str, str | None]) -> str:
    """Return the prompt for a role among a model's prompts; empty if it has none.

    >>> prompt_for("document", {"query": "query: ", "document": "", "passage": "passage: "})
    'passage: '
    """
    return next((prompt for name in PROMPT_NAMES[role] if (prompt := prompts.get(name))), "")


def with_prompts(prompts: Mapping[str, str | None], query: str | None, document: str | None) -> dict[str, str]:
    """Return the prompts of a model, with the given ones that are not None in place of its own.

    >>> with_prompts({"query": "q: ", "passage": "p: "}, None, "")
    {'query': 'q: ', 'document': ''}
    """
    pairs = zip(ROLES, (query, document), strict=True)
    given: dict[str, str] = {role: prompt for role, prompt in pairs if prompt is not None}
    replaced = {name for role in ROLES if role in given for name in PROMPT_NAMES[role]}
    kept = {name: prompt for name, prompt in prompts.items() if prompt is not None and name not in replaced}
    return {**kept, **given}
