"""Find nearly equal queries, and report how many are on both sides of the split."""

import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from multigrain.data.key_table import KeyTable, exact_key
from multigrain.records import Pair, folded
from multigrain.terminal import say

ADDED = 0.1
"""Largest extra word of a nearly equal query, as a share of the query's other characters."""
MARKS = ".,;:!?\"'`()[]{}\u2026\u3001\u3002\u00bf\u00a1\u061f\u201c\u201d\u2018\u2019\u00ab\u00bb-"
"""Punctuation around words; signs such as + and # are part of a word."""


def near_queries(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Return the places of nearly equal queries among the pairs: (an earlier or shorter query, the query).

    Nearly equal queries have the same words in any order, whatever their case, width and punctuation; or one has an
    extra word that is short compared to the rest (`ADDED`). A different word makes a different query, or all queries
    of one template would be equal. Time and memory grow with the pairs, not with their square.
    """
    first = KeyTable()
    near: list[tuple[int, int]] = []
    places, shorter = array("Q"), array("Q")  # queries without one short word
    for place, pair in enumerate(pairs):
        whole, without_word = _keys_of(pair.query)
        if (known := first.setdefault(whole, place)) != place:
            near.append((known, place))
            continue
        for key in without_word:
            places.append(place)
            shorter.append(key)
    for place, key in zip(places, shorter, strict=True):
        known_shorter = first.get(key)
        near += [] if known_shorter is None else [(known_shorter, place)]
    return near


class NearTo:
    """Tells which queries are nearly equal, as in `near_queries`, to one of these pairs."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._whole, self._shorter = KeyTable(), KeyTable()
        for pair in pairs:
            whole, without_word = _keys_of(pair.query)
            self._whole.add(whole)
            for key in without_word:
                self._shorter.add(key)

    def __contains__(self, query: str) -> bool:
        whole, without_word = _keys_of(query)
        return whole in self._whole or whole in self._shorter or any(key in self._whole for key in without_word)


def _keys_of(query: str) -> tuple[int, Iterator[int]]:
    """Return a key of the words of a query, and one of those without each word that is short compared to the rest."""
    words = _bare_words(query)
    whole = " ".join(words)
    shorter = (
        exact_key(" ".join(words[:index] + words[index + 1 :]))
        for index, word in enumerate(words)
        if len(word) + 1 <= ADDED * (len(whole) - len(word) - 1)
    )
    return exact_key(whole), shorter


def _bare_words(text: str) -> list[str]:
    """Return the words in alphabetical order, without the punctuation around them."""
    plain = text.casefold() if text.isascii() else folded(unicodedata.normalize("NFKC", text))
    words = (word.strip(MARKS) for word in plain.split())
    return sorted(filter(None, words)) or [text]


def tell_near(pairs: Sequence[Pair], near: Iterable[tuple[int, int]], held_out: NDArray[np.bool_]) -> None:
    """Report how many held-out queries nearly equal a training query; `held_out` flags the held-out pairs."""
    torn = {one if held_out[one] else other for one, other in near if held_out[one] != held_out[other]}
    if torn:
        pair = pairs[min(torn)]
        say(f"  {len(torn)} held-out queries nearly equal a training query (first: {pair.query!r}, pair {pair.id})")
