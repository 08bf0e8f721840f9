"""The documents of a run: each text of the corpus once, marked by who may look at it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from multigrain.data.key_table import KeyTable, exact_key, half
from multigrain.records import Document, identity


@dataclass(frozen=True)
class Documents:
    """The corpus: each distinct text once, marked by who may look at it.

    It may be larger than the memory: the texts are read anew whenever it is iterated, and only some 30 bytes of each
    are kept meanwhile.
    """

    read: Callable[[], Iterable[Document]]
    held_out: KeyTable | frozenset[int]
    """The `text_key` of the texts that are held out."""
    count: int
    check: Callable[[], None] | None = None
    """Called at the end of each reading: raises a `DataError` if something else was read than before."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Document]:
        for key, document in distinct_texts(self.read()):
            yield replace(document, split="held_out") if half(key) in self.held_out else document
        if self.check:
            self.check()


def distinct_texts(documents: Iterable[Document]) -> Iterator[tuple[bytes, Document]]:
    """Yield (identity, document) of each text once; ids that different texts share are told apart by a number."""
    texts, ids = KeyTable(), KeyTable()
    for document in documents:
        key = identity(document.text)
        if not texts.add(half(key)):
            continue
        unique = document
        if exact_key(document.id) in ids:
            unique = replace(document, id=f"{document.id}#{len(texts) - 1}")
        ids.add(exact_key(unique.id))
        yield key, unique
