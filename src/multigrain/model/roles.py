"""The types that encoders and their users share, and which prompt a text is encoded with. No torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""Vectors of texts: (number of texts, dimension)."""

Role = Literal["query", "document"]
"""What a text is encoded as: many models put a prompt before queries, some another one before documents."""

Embed = Callable[[Sequence[str], Role], Vectors]
"""Texts in one role to vectors of length 1, so that a dot product is a cosine."""

ROLES: tuple[Role, ...] = ("query", "document")
PROMPT_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""The names under which models keep the prompt of a role. In sentence-transformers, `encode_document` means
the same three, but every model is given an empty "document", so the others are never reached."""


def prompt_for(role: Role, prompts: Mapping[str, str | None]) -> str:
    """Return the prompt that a model with these prompts puts before a text in this role; empty where it has none.

    >>> prompt_for("document", {"query": "query: ", "document": "", "passage": "passage: "})
    'passage: '
    """
    return next((prompt for name in PROMPT_NAMES[role] if (prompt := prompts.get(name))), "")


def with_prompts(prompts: Mapping[str, str | None], query: str | None, document: str | None) -> dict[str, str]:
    """Return the prompts of a model, with those in place of its own that are not None.

    >>> with_prompts({"query": "q: ", "passage": "p: "}, None, "")
    {'query': 'q: ', 'document': ''}
    """
    pairs = zip(ROLES, (query, document), strict=True)
    given: dict[str, str] = {role: prompt for role, prompt in pairs if prompt is not None}
    replaced = {name for role in ROLES if role in given for name in PROMPT_NAMES[role]}
    kept = {name: prompt for name, prompt in prompts.items() if prompt is not None and name not in replaced}
    return {**kept, **given}
