"""The documents of a run: each distinct text of the corpus once, marked with its split."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

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

    Each document names all sources whose corpora hold its text, and has its groups in all of them.
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
                sources = self._sources_of(key)
                if sources[0] == name:
                    others = [group for group in self._groups_of_shared.get(key, ()) if group != document.group]
                    yield replace(document, sources=sources, other_groups=others or None)

    def _sources_of(self, key: int) -> list[str]:
        return [name for name, table in self.texts.items() if key in table]

    @cached_property
    def _groups_of_shared(self) -> dict[int, list[str]]:
        """The groups of each text that several corpora hold, by its `text_key`; only such corpora are read."""
        keys, counts = np.unique(np.concatenate([table.keys() for table in self.texts.values()]), return_counts=True)
        shared = keys[counts > 1]
        groups: dict[int, list[str]] = {}
        for name, documents in self.corpora.items():
            if not np.isin(shared, self.texts[name].keys()).any():
                continue
            for document in documents:
                if document.group is not None and len(self._sources_of(key := text_key(document.text))) > 1:
                    groups.setdefault(key, []).append(document.group)
        return groups


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
