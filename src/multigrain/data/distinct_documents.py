"""The documents of a run: each distinct text of the corpus once, marked with its split."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from multigrain.data.key_table import KeyTable, exact_key, half, text_key
from multigrain.records import Document, identity


@dataclass(frozen=True)
class Documents:
    """The corpus: each distinct text once, marked with its split.

    The corpus may be larger than memory: each iteration reads the texts again and keeps about 30 bytes of each.
    """

    read: Callable[[], Iterable[Document]]
    held_out: KeyTable | frozenset[int]
    """The `text_key` of each held-out text."""
    count: int
    check: Callable[[], None] | None = None
    """Called at the end of each iteration; raises a `DataError` if the input has changed."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Document]:
        for key, document in distinct_texts(self.read()):
            yield replace(document, split="held_out") if half(key) in self.held_out else document
        if self.check:
            self.check()


@dataclass(frozen=True)
class JoinedDocuments:
    """The corpora of several sources, one after another; each distinct text is once in the first corpus that holds it.

    Each document names all sources whose corpora hold its text.
    """

    corpora: Mapping[str, Documents]
    """The corpus of each source; no two of them share an id."""
    texts: Mapping[str, KeyTable]
    """The `text_key` of each text of the source's corpus."""

    def __len__(self) -> int:
        return len(np.unique(np.concatenate([table.keys() for table in self.texts.values()])))

    def __iter__(self) -> Iterator[Document]:
        for name, documents in self.corpora.items():
            for document in documents:
                key = text_key(document.text)
                sources = [other for other, table in self.texts.items() if key in table]
                if sources[0] == name:
                    yield replace(document, sources=sources)


def distinct_texts(documents: Iterable[Document]) -> Iterator[tuple[bytes, Document]]:
    """Yield (identity, document) once for each distinct text; number the ids that different texts share."""
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
