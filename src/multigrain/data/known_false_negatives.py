"""Tell the false negatives that the input itself names: texts that answer the query, and texts of its group."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from multigrain.records import Document, Pair, identity

NONE = -1
"""The class of a pair without a group."""
KNOWN_POSITIVE, SAME_GROUP = "known positive", "same group"
"""The rules that drop a candidate."""

Numbers = NDArray[np.int64]


class FalseNegatives:
    """Tells which texts are no negatives of a pair.

    What answers a query is a *class* of texts, with the query itself; so is a group. A text is no negative of a pair
    that has a class in common with it; it may be of many classes. For each text and class 16 bytes are kept, and only
    of the classes that one of the pairs has, so that memory grows with the pairs and not with their square.

    Args:
        pairs: those that negatives are looked for.
        known: all pairs that say what answers a query; by default the same.
        documents: the corpus, for the groups that it names.
    """

    def __init__(
        self, pairs: Sequence[Pair] = (), known: Iterable[Pair] | None = None, documents: Iterable[Document] = ()
    ) -> None:
        self.pairs = pairs
        self._numbers: dict[bytes, int] = {}
        for key in chain.from_iterable(_class_names(pair) for pair in pairs):
            self._numbers.setdefault(key, len(self._numbers))
        texts, classes = array("Q"), array("q")
        for text, name in chain(_members(pairs if known is None else known), _grouped(documents)):
            if (number := self._numbers.get(name)) is not None:
                texts.append(_short(text))
                classes.append(number)
        keys = np.array(texts, dtype=np.uint64)
        order = np.argsort(keys)
        self._texts, self._classes = keys[order], np.array(classes, dtype=np.int64)[order]

    def rule(self, pair: Pair, text: str) -> str | None:
        """Return the rule by which the text is no negative of the pair; None if it may be one."""
        found = self.classes_of([text])[1]
        rules = zip(_class_names(pair), (KNOWN_POSITIVE, SAME_GROUP), strict=False)
        return next((rule for name, rule in rules if self._numbers.get(name) in found), None)

    def classes(self) -> Numbers:
        """Return (pairs, 2): the class of each pair's query, and the class of its group or `NONE`."""
        rows: list[list[int]] = []
        for pair in self.pairs:
            numbers = [self._numbers[name] for name in _class_names(pair)]
            rows.append(numbers + [NONE] * (2 - len(numbers)))
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def classes_of(self, texts: Sequence[str]) -> tuple[Numbers, Numbers]:
        """Return (hits,) places of texts and (hits,) their classes: one hit for each class of each text."""
        keys = np.array([_short(text) for text in texts], dtype=np.uint64)
        first = np.searchsorted(self._texts, keys, "left")
        last = np.searchsorted(self._texts, keys, "right")
        places = np.flatnonzero(last > first)
        found = [self._classes[first[place] : last[place]] for place in places]
        empty = np.empty(0, dtype=np.int64)
        return np.repeat(places, [len(part) for part in found]), np.concatenate([empty, *found])


def _class_names(pair: Pair) -> list[bytes]:
    """Return the name of the query's class, then that of the group's if there is one."""
    return [b"q" + identity(pair.query), *([] if pair.group is None else [_group_name(pair.group)])]


def _group_name(group: str) -> bytes:
    return b"g" + group.encode("utf-8", "surrogatepass")


def _members(pairs: Iterable[Pair]) -> Iterator[tuple[str, bytes]]:
    """Yield (text, name of its class): queries and positives by query, and both by group."""
    asked: set[bytes] = set()
    for pair in pairs:
        query, *groups = _class_names(pair)
        yield pair.positive, query
        for name in groups:
            yield pair.query, name
            yield pair.positive, name
        if query not in asked:
            asked.add(query)
            yield pair.query, query


def _grouped(documents: Iterable[Document]) -> Iterator[tuple[str, bytes]]:
    return ((document.text, _group_name(document.group)) for document in documents if document.group is not None)


def _short(text: str) -> int:
    """Return half of the `identity`: two of a billion texts share it once in forty trials."""
    return int.from_bytes(identity(text)[:8], "big")
