"""Find the false negatives that the input itself names: texts that answer the query, and texts of its group."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from multigrain.data.key_table import half, text_key
from multigrain.records import Document, Pair, identity

NONE = 0
"""Group class of a pair without a group."""
KNOWN_POSITIVE, SAME_GROUP = "known positive", "same group"
"""The rules that drop a candidate."""
AT_ONCE = 65_536
"""Texts that are processed at once."""

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]
"""Digests of texts or classes, 8 bytes each. The probability that any two of a billion share one is one in forty."""


class FalseNegatives:
    """Determine which texts cannot be negatives of a pair.

    A query and the texts that answer it form a *class*; so do the texts of a group. A text may be in many classes. It
    cannot be a negative of a pair that shares a class with it. Memory holds 16 bytes for each text and class, and only
    the classes of the pairs, so it grows with the pairs and not with their square. Pairs and documents are read on the
    first lookup.

    Args:
        pairs: the pairs that need negatives.
        known: all pairs that say what answers a query; by default `pairs`.
        documents: the corpus, for the groups that it names; read only if a pair has a group.
    """

    def __init__(
        self, pairs: Iterable[Pair] = (), known: Iterable[Pair] | None = None, documents: Iterable[Document] = ()
    ) -> None:
        if known is None:
            pairs = known = list(pairs)
        self._pairs, self._known, self._documents = pairs, known, documents

    @cached_property
    def _members(self) -> tuple[Keys, Keys]:
        """The texts in ascending order, (n,), and the class of each, (n,)."""
        classes_of_all = np.concatenate([np.empty((0, 2), np.uint64), *_in_blocks(self._pairs)])
        has_groups = bool((classes_of_all[:, 1] != NONE).any())
        wanted = np.unique(classes_of_all)
        texts, classes = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        members = chain(_members(self._known), _grouped(self._documents) if has_groups else ())
        while block := list(islice(members, AT_ONCE)):
            both = np.array(block, dtype=np.uint64)
            is_wanted = np.isin(both[:, 1], wanted)
            texts.append(both[is_wanted, 0])
            classes.append(both[is_wanted, 1])
        keys = np.concatenate(texts)
        order = np.argsort(keys, kind="stable")
        return keys[order], np.concatenate(classes)[order]

    def rule(self, pair: Pair, text: str) -> str | None:
        """Return the rule that bars the text as a negative of the pair; None if it may be one."""
        found = self.classes_of(keys_of([text]))[1].tolist()
        rules = zip(_class_keys(pair), (KNOWN_POSITIVE, SAME_GROUP), strict=True)
        return next((rule for key, rule in rules if key != NONE and key in found), None)

    def classes_of(self, texts: Keys) -> tuple[Numbers, Keys]:
        """Return the places of texts, (hits,), and their classes, (hits,): one hit for each class of each text.

        Args:
            texts: see `keys_of`.
        """
        members, classes = self._members
        first = np.searchsorted(members, texts, "left")
        last = np.searchsorted(members, texts, "right")
        places = np.flatnonzero(last > first)
        found = [classes[first[place] : last[place]] for place in places]
        empty = np.empty(0, dtype=np.uint64)
        return np.repeat(places, [len(part) for part in found]), np.concatenate([empty, *found])


def keys_of(texts: Iterable[str]) -> Keys:
    """Return the `text_key` of each text, (texts,), by which `folded` texts are compared."""
    return np.array([text_key(text) for text in texts], dtype=np.uint64)


def classes_of_pairs(pairs: Sequence[Pair]) -> Keys:
    """Return (pairs, 2): the class of each pair's query, and the class of its group or `NONE`."""
    return np.array([_class_keys(pair) for pair in pairs], dtype=np.uint64).reshape(-1, 2)


def _in_blocks(pairs: Iterable[Pair]) -> Iterator[Keys]:
    rest = iter(pairs)
    while block := list(islice(rest, AT_ONCE)):
        yield classes_of_pairs(block)


def _class_keys(pair: Pair) -> tuple[int, int]:
    return _class_of_query(identity(pair.query)), NONE if pair.group is None else _class_of_group(pair.group)


def _class_of_query(query: bytes) -> int:
    return _key(blake2b(query, digest_size=8, person=b"query").digest())


def _class_of_group(group: str) -> int:
    return _key(blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8, person=b"group").digest())


def _members(pairs: Iterable[Pair]) -> Iterator[tuple[int, int]]:
    """Yield (text, class): each query and positive with the class of the query, and with that of the group."""
    for pair in pairs:
        query = identity(pair.query)
        own, positive = half(query), text_key(pair.positive)
        yield positive, _class_of_query(query)
        yield own, _class_of_query(query)
        if pair.group is not None:
            group = _class_of_group(pair.group)
            yield own, group
            yield positive, group


def _grouped(documents: Iterable[Document]) -> Iterator[tuple[int, int]]:
    for document in documents:
        for group in document.groups:
            yield text_key(document.text), _class_of_group(group)


def _key(digest: bytes) -> int:
    """Return the first 8 bytes of a digest as a number that is never `NONE`."""
    return half(digest) or 1
