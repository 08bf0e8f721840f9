"""The documents of a run: each text of the corpus once, marked by who may look at it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from multigrain.records import Document, identity


@dataclass(frozen=True)
class Documents:
    """The corpus: each distinct text once, marked by who may look at it.

    It may be larger than the memory: the texts are read anew whenever it is iterated, and only 16 bytes of each are
    kept meanwhile.
    """

    read: Callable[[], Iterable[Document]]
    held_out: frozenset[bytes]
    """The `identity` of the texts that are held out."""
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Document]:
        for key, document in distinct_texts(self.read()):
            yield replace(document, split="held_out") if key in self.held_out else document


def distinct_texts(documents: Iterable[Document]) -> Iterator[tuple[bytes, Document]]:
    """Yield (identity, document) of each text once; ids that different texts share are told apart by a number."""
    texts: set[bytes] = set()
    ids: set[str] = set()
    for document in documents:
        key = identity(document.text)
        if key in texts:
            continue
        unique = document if document.id not in ids else replace(document, id=f"{document.id}#{len(texts)}")
        ids.add(unique.id)
        texts.add(key)
        yield key, unique
