"""Types shared by encoders and their callers, and the choice of the prompt for a role. Does not import torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from multigrain.config import INSTRUCTION

if TYPE_CHECKING:
    from multigrain.model.vector_file import StoredVectors

Vectors = NDArray[np.float32]
"""Vectors of texts: (number of texts, dimension)."""

Role = Literal["query", "document"]
"""The role of a text: many models put a prompt before queries, and some put another one before documents."""

Embed = Callable[[Sequence[str], Role], Vectors]
"""Maps texts in one role to vectors of length 1, so a dot product is a cosine."""


@runtime_checkable
class ReadsInstructions(Protocol):
    """An encoder of queries, each with its own instruction."""

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None]) -> Vectors:
        """Return (number of texts, dimension) vectors of length 1; a query without instruction has the usual prompt."""


@runtime_checkable
class KeepsVectors(Protocol):
    """An encoder that keeps vectors where other processes can read them, and encodes ahead of the calls that need them.

    See `multigrain.model.encode.CachedEncoder`.
    """

    def request(self, texts: Sequence[str], role: Role, instructions: Sequence[str | None] | None = None) -> None:
        """Start to encode texts."""

    def settle(self) -> None:
        """Wait until all requested texts are encoded."""

    def stored(self, texts: Sequence[str], role: Role) -> "StoredVectors":
        """Return a reference to the vectors of texts that are encoded."""


class Asked(Protocol):
    """A record with a query, such as a pair or a tuple."""

    @property
    def query(self) -> str:
        """The query."""

    @property
    def instruction(self) -> str | None:
        """What the query looks for."""


def embed_queries(embed: Embed, asked: Sequence[Asked]) -> Vectors:
    """Return the vectors of the queries of some records, each with its own instruction if the model reads them."""
    texts = [record.query for record in asked]
    return embed_instructed(embed, texts, [record.instruction for record in asked])


def embed_instructed(embed: Embed, texts: Sequence[str], instructions: Sequence[str | None]) -> Vectors:
    """Return the vectors of queries, each with its instruction if the model reads them."""
    if any(instructions) and isinstance(embed, ReadsInstructions):
        return embed.queries(texts, instructions)
    return embed(texts, "query")


ROLES: tuple[Role, ...] = ("query", "document")
PROMPT_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""The names under which models store the prompt of a role. `encode_document` of sentence-transformers tries the
same three, but gives every model an empty "document" prompt, so it never reaches the others."""


TEMPLATE = "instruction"
"""The name under which a model trained with instructions keeps the prompt of a query that has one."""


def prompt_for(role: Role, prompts: Mapping[str, str | None]) -> str:
    """Return the prompt for a role among a model's prompts; empty if it has none.

    >>> prompt_for("document", {"query": "query: ", "document": "", "passage": "passage: "})
    'passage: '
    """
    return next((prompt for name in PROMPT_NAMES[role] if (prompt := prompts.get(name))), "")


def query_prompt(prompts: Mapping[str, str | None], instruction: str | None) -> str:
    """Return the prompt of a query: with its instruction, if it has one and the model was trained with instructions.

    >>> query_prompt({"query": "q: ", "instruction": "Do {instruction}: "}, "find it")
    'Do find it: '
    >>> query_prompt({"query": "q: ", "instruction": "Do {instruction}: "}, None), query_prompt({}, "find it")
    ('q: ', '')
    """
    template = template_of(prompts)
    return template.replace(INSTRUCTION, instruction) if template and instruction else prompt_for("query", prompts)


def template_of(prompts: Mapping[str, str | None]) -> str | None:
    """Return the prompt around an instruction; None if the model was trained without instructions.

    Some models have a prompt of the same name without a place for an instruction.

    >>> template_of({"instruction": "Do {instruction}: "})
    'Do {instruction}: '
    >>> template_of({"instruction": "Answer the question: "}), template_of({})
    (None, None)
    """
    template = prompts.get(TEMPLATE)
    return template if template and INSTRUCTION in template else None


def with_prompts(prompts: Mapping[str, str | None], query: str | None, document: str | None) -> dict[str, str]:
    """Return the prompts of a model, with the given ones that are not None in place of its own.

    A query prompt with a place for an instruction leaves the prompt of the other queries as it is.

    >>> with_prompts({"query": "q: ", "passage": "p: "}, None, "")
    {'query': 'q: ', 'document': ''}
    >>> with_prompts({"query": "q: "}, "{instruction}: ", None)
    {'query': 'q: ', 'instruction': '{instruction}: '}
    """
    given: dict[str, str] = {}
    replaced: set[str] = set()
    if query is not None:
        role = TEMPLATE if INSTRUCTION in query else "query"
        given[role] = query
        replaced |= {TEMPLATE} if role == TEMPLATE or template_of(prompts) else set()
        replaced |= {*PROMPT_NAMES["query"]} if role == "query" else set()
    if document is not None:
        given["document"] = document
        replaced |= {*PROMPT_NAMES["document"]}
    kept = {name: prompt for name, prompt in prompts.items() if prompt is not None and name not in replaced}
    return {**kept, **given}
