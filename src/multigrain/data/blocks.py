"""A corpus in portions that fit into the memory."""

from collections.abc import Iterable, Iterator

from multigrain.records import Document

CHARACTERS = 2**25
"""Characters of a block from which on it ends, however few its documents."""


def blocks(documents: Iterable[Document], most: int, characters: int = CHARACTERS) -> Iterator[list[Document]]:
    """Yield the documents in blocks of `most`, or of fewer where they are long."""
    block: list[Document] = []
    length = 0
    for document in documents:
        block.append(document)
        length += len(document.text)
        if len(block) == most or length >= characters:
            yield block
            block, length = [], 0
    if block:
        yield block
