"""Cut a corpus into blocks that fit into memory."""

from collections.abc import Iterable, Iterator

from multigrain.records import Document

CHARACTERS = 2**25
"""Characters at which a block ends, however few documents it has."""


def blocks(
    documents: Iterable[Document], most: int, characters: int = CHARACTERS, first: int | None = None
) -> Iterator[list[Document]]:
    """Yield the documents in blocks of `most`, or fewer if they are long.

    Args:
        documents: the corpus, read once.
        most: most documents of a block.
        characters: characters at which a block ends.
        first: documents of the first block, if fewer than `most`; each later block is up to twice as long.
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
