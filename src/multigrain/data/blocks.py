"""A corpus in portions that fit into the memory."""

from collections.abc import Iterable, Iterator

from multigrain.records import Document

CHARACTERS = 2**25
"""Characters of a block from which on it ends, however few its documents."""


def blocks(
    documents: Iterable[Document], most: int, characters: int = CHARACTERS, first: int | None = None
) -> Iterator[list[Document]]:
    """Yield the documents in blocks of `most`, or of fewer where they are long.

    Args:
        documents: read once.
        most: documents of a block.
        characters: of a block, from which on it ends.
        first: documents of the first block, where it is shorter; each that follows is up to twice as long.
    """
    block: list[Document] = []
    size, length = most if first is None else min(first, most), 0
    for document in documents:
        block.append(document)
        length += len(document.text)
        if len(block) == size or length >= characters:
            yield block
            block, length, size = [], 0, min(2 * size, most)
    if block:
        yield block
