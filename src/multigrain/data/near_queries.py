"""Find queries that nearly equal each other, and say how many are on both sides of the split."""

import unicodedata
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from multigrain.data.key_table import KeyTable, exact_key
from multigrain.records import Pair, folded
from multigrain.terminal import say

ADDED = 0.1
"""Share of a query's characters that another one may have besides and nearly equal it."""
MARKS = ".,;:!?\"'`()[]{}\u2026\u3001\u3002\u00bf\u00a1\u061f\u201c\u201d\u2018\u2019\u00ab\u00bb-"
"""What stands around words; signs such as + and # are part of them."""


def near_queries(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Return the places of pairs whose queries nearly equal each other, each with that of an earlier or shorter query.

    Such queries have the same words in any order, whatever their case, width and punctuation; or one has a word more
    that is short beside the rest (`ADDED`). An exchanged word makes another query, or all that were made by one
    template would be one. Time and memory grow with the pairs, not with their square.
    """
    first = KeyTable()
    near: list[tuple[int, int]] = []
    places, shorter = array("Q"), array("Q")  # what is left of a query without one word, of each that may go
    for place, pair in enumerate(pairs):
        words = _bare_words(pair.query)
        whole = " ".join(words)
        if (known := first.setdefault(exact_key(whole), place)) != place:
            near.append((known, place))
            continue
        for index, word in enumerate(words):
            if len(word) + 1 <= ADDED * (len(whole) - len(word) - 1):
                places.append(place)
                shorter.append(exact_key(" ".join(words[:index] + words[index + 1 :])))
    for place, key in zip(places, shorter, strict=True):
        known_shorter = first.get(key)
        near += [] if known_shorter is None else [(known_shorter, place)]
    return near


def _bare_words(text: str) -> list[str]:
    """Return the words in the order of the alphabet, without what stands around them."""
    plain = text.casefold() if text.isascii() else folded(unicodedata.normalize("NFKC", text))
    words = (word.strip(MARKS) for word in plain.split())
    return sorted(filter(None, words)) or [text]


def tell_near(pairs: Sequence[Pair], near: Iterable[tuple[int, int]], held_out: NDArray[np.bool_]) -> None:
    """Say how many queries of one side nearly equal one of the other; `held_out` tells the side of each pair."""
    torn = {one if held_out[one] else other for one, other in near if held_out[one] != held_out[other]}
    if torn:
        pair = pairs[min(torn)]
        say(f"  {len(torn)} held-out queries nearly equal a training query (first: {pair.query!r}, pair {pair.id})")
