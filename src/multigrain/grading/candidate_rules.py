"""Cheap rules that need no model: they drop texts that cannot be negatives, whatever a judge says."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigrain.data.words import words_in, words_of
from multigrain.grading.language import is_other_language, is_refusal
from multigrain.records import Candidate, Pair, folded

FEWEST_WORDS = 3
"""Words up to which a text counts as a label or a title; all such texts count as equally long."""
SHORTEST = 0.5
"""Shortest written text, as a share of the positive's words, if the positive is a label."""
NEAR_COPY = 0.9
"""Share of matching characters (Ratcliff and Obershelp) at which two texts count as the same."""
COMPARED = 600
"""Characters that are compared; the time grows with the square."""
LABEL_ECHOES = re.compile(r"\b(Query|Answer|Passage|What follows): |\b\w+ passage: |\bgrade_[1-4]\"?\s*:")
REPEATED = 4
"""Times that a phrase follows itself in a text that repeats itself."""
LOOP = re.compile(rf"\b(\w[^.]{{2,60}}?)(?:\W+\1){{{REPEATED},}}", re.IGNORECASE)
REMEMBERED = 512
"""Texts whose words are cached: enough for the candidates of one pair."""

Finding = tuple[str, float | None]
"""A rule, and the value that breaks it; None if the rule is not broken."""


def broken_rule(candidate: Candidate, pair: Pair, earlier: Sequence[str]) -> tuple[str, float] | None:
    """Return the first rule that the candidate breaks, with the value that breaks it; None if it breaks none.

    Args:
        candidate: the candidate to check.
        pair: the pair it was proposed for.
        earlier: the texts already kept for this pair.
    """
    findings = _findings(candidate, pair, earlier)
    return next(((rule, value) for rule, value in findings if value is not None), None)


def is_same_text(candidate: Candidate, pair: Pair, earlier: Sequence[str]) -> tuple[str, float] | None:
    """Return the rule that drops even a given negative that keeps its grade: it repeats another text word for word."""
    others = {"the query": [pair.query], "the positive": [pair.positive], "another candidate": earlier}
    text = folded(candidate.text)
    same = (name for name, texts in others.items() if any(folded(other) == text for other in texts))
    return next(((f"copy of {name}", 1.0) for name in same), None)


def _findings(candidate: Candidate, pair: Pair, earlier: Sequence[str]) -> Iterator[Finding]:
    """Yield rule by rule; the caller stops at the first that is broken."""
    text = candidate.text
    if candidate.source == "llm":
        yield from _findings_in_written(text, pair.positive)
    yield "copy of the query", likeness(text, pair.query)
    yield "copy of the positive", likeness(text, pair.positive)
    for other in earlier:
        yield "copy of another candidate", likeness(text, other)


def _findings_in_written(text: str, positive: str) -> Iterator[Finding]:
    """Yield the rules for faults that only language models make."""
    words = words_in(text)
    yield "too short", words if words < min(FEWEST_WORDS, SHORTEST * words_in(positive)) else None
    # If the positive has such labels, as in lists of questions and answers, they are not an echo.
    yield "echo of the prompt", 1.0 if LABEL_ECHOES.search(text) and not LABEL_ECHOES.search(positive) else None
    yield "refusal", 1.0 if is_refusal(text) else None
    # A loop goes on to the end, so both ends are enough.
    loops = LOOP.search(text[:COMPARED]) or LOOP.search(text[-COMPARED:])
    yield "repeats itself", float(REPEATED) if loops else None
    yield "other language", 1.0 if is_other_language(text, positive) else None


def length_against(text: str, positive: str, longest: int) -> float:
    """Return log(words of the text / words of the positive): 0 = as long, below 0 = shorter.

    At most `longest` words of each count: a model that reads no further cannot learn from the rest. Labels and titles,
    of up to `FEWEST_WORDS` words, all count as equally long.
    """
    return math.log(_counted(words_in(text), longest) / _counted(words_in(positive), longest))


def _counted(words: float, longest: int) -> float:
    return max(min(words, longest), FEWEST_WORDS)


def lengths_against(words: NDArray[Any], positives: NDArray[Any], longest: int) -> NDArray[np.float64]:
    """Return `length_against`, (texts,), from the numbers of words of texts and positives, (texts,) each."""
    counted = [np.maximum(np.minimum(each.astype(np.float64), longest), FEWEST_WORDS) for each in (words, positives)]
    lengths: NDArray[np.float64] = np.log(counted[0] / counted[1])
    return lengths


def likeness(text: str, other: str) -> float | None:
    """Return the share of matching characters if two texts say the same, else None.

    A text with an exchanged word is not a copy, however similar it is: such texts are the hardest negatives.
    """
    (left, words), (right, other_words) = _words_of(text), _words_of(other)
    if left == right:
        return 1.0
    if not (_nested(words, other_words) or _nested(other_words, words)):  # each has words that the other lacks
        return None
    left, right = left[:COMPARED], right[:COMPARED]
    if 2 * _common_subsequence(left, right) < NEAR_COPY * (len(left) + len(right)) - 1:
        return None
    likeness = round(SequenceMatcher(None, left, right, autojunk=False).ratio(), 4)
    return likeness if likeness >= NEAR_COPY else None


def _common_subsequence(text: str, other: str) -> int:
    """Return the length of the longest common subsequence, an upper bound on the matching characters.

    It computes a row of the table at once, by bits: Hyyro 2004, "Bit-parallel LCS-length computation revisited". That
    takes a thirtieth of the time of the match itself.

    >>> _common_subsequence("grades", "garden")
    4
    """
    places: dict[str, int] = {}
    for place, character in enumerate(text):
        places[character] = places.get(character, 0) | 1 << place
    row = whole = (1 << len(text)) - 1
    for character in other:
        matches = row & places.get(character, 0)
        row = ((row + matches) | (row - matches)) & whole
    return len(text) - row.bit_count()


def _nested(words: Counter[str], others: Counter[str]) -> bool:
    """Return whether no word is more frequent among the first than among the others."""
    return words.keys() <= others.keys() and words <= others


@lru_cache(REMEMBERED)
def _words_of(text: str) -> tuple[str, Counter[str]]:
    """Return the folded text, and its word counts."""
    text = folded(text)
    return text, Counter(words_of(text))
