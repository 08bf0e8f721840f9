"""Find queries that nearly equal each other, and say how many are on both sides of the split."""

import unicodedata
from collections.abc import Iterable, Sequence, Set

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
    first: dict[str, int] = {}
    near, distinct = [], []
    for place, pair in enumerate(pairs):
        words = _bare_words(pair.query)
        if (known := first.setdefault(" ".join(words), place)) != place:
            near.append((known, place))
        else:
            distinct.append((place, words))
    for place, words in distinct:
        length = len(" ".join(words))
        for index, word in enumerate(words):
            if len(word) + 1 <= ADDED * (length - len(word) - 1):
                shorter = first.get(" ".join(words[:index] + words[index + 1 :]))
                near += [] if shorter is None else [(shorter, place)]
    return near


def _bare_words(text: str) -> list[str]:
    """Return the words in the order of the alphabet, without what stands around them."""
    plain = text.casefold() if text.isascii() else folded(unicodedata.normalize("NFKC", text))
    words = (word.strip(MARKS) for word in plain.split())
    return sorted(filter(None, words)) or [text]


def tell_near(pairs: Sequence[Pair], near: Iterable[tuple[int, int]], held_out: Set[str]) -> None:
    """Say how many queries of one side nearly equal one of the other."""
    sides = [pair.id in held_out for pair in pairs]
    torn = {one if sides[one] else other for one, other in near if sides[one] != sides[other]}
    if torn:
        pair = pairs[min(torn)]
        say(f"  {len(torn)} held-out queries nearly equal a training query (first: {pair.query!r}, pair {pair.id})")
