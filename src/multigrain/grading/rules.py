"""Cheap rules that need no model: what cannot be a negative, whatever a judge says."""

import math
import re
from collections import Counter
from difflib import SequenceMatcher

from multigrain.grading.language import is_other_language, is_refusal
from multigrain.records import Candidate, Pair, folded

FEWEST_WORDS = 3
NEAR_COPY = 0.9
"""Share of matching characters (Ratcliff and Obershelp) at which two texts count as the same."""
COMPARED = 600
"""Characters that are compared; the time grows with the square of it."""
LABEL_ECHOES = re.compile(r"\b(Query|Answer|Passage|What follows): |\b\w+ passage: |\"?grade_[1-4]\"?: ")
REPEATED = 4
"""Times that a phrase may follow itself."""
LOOP = re.compile(rf"\b(\w[^.]{{2,60}}?)(?:\W+\1){{{REPEATED},}}", re.IGNORECASE)
WORD = re.compile(r"\w+")


def broken_rule(candidate: Candidate, pair: Pair, earlier: list[str]) -> tuple[str, float] | None:
    """The first rule that the candidate breaks, with the value that breaks it; None where it breaks none.

    Args:
        candidate: the text to look at.
        pair: the pair it was proposed for.
        earlier: the texts of this pair that were kept before.
    """
    text, words = candidate.text, len(candidate.text.split())
    if words < FEWEST_WORDS and not _is_unspaced(text):
        return "too short", float(words)
    if LABEL_ECHOES.search(text):
        return "echo of the prompt", 1.0
    if candidate.source == "llm":
        if is_refusal(text):
            return "refusal", 1.0
        if LOOP.search(text[:COMPARED]):
            return "repeats itself", float(REPEATED)
        if is_other_language(text, pair.positive):
            return "other language", 1.0
    for name, other in (("copy of the query", pair.query), ("copy of the positive", pair.positive)):
        if likeness := _copies(text, other):
            return name, likeness
    for other in earlier:
        if likeness := _copies(text, other):
            return "copy of another candidate", likeness
    return None


def length_against(text: str, positive: str, longest: int) -> float:
    """log(words of the text / words of the positive): 0 = as long, below 0 = shorter.

    Of both at most `longest` words count: a model that reads no more cannot learn from the rest. Texts without
    spaces are measured by characters.
    """
    if _is_unspaced(text) or _is_unspaced(positive):
        return math.log(min(len(text), 2 * longest) / max(min(len(positive), 2 * longest), 1))
    return math.log(max(min(len(text.split()), longest), 1) / max(min(len(positive.split()), longest), 1))


def _copies(text: str, other: str) -> float:
    """Share of matching characters where two texts say the same, else 0.

    A text in which a word was exchanged is no copy, however much it looks like one: these are the hardest negatives.
    """
    left, right = folded(text), folded(other)
    if left == right:
        return 1.0
    matcher = SequenceMatcher(None, left[:COMPARED], right[:COMPARED], autojunk=False)
    if matcher.real_quick_ratio() < NEAR_COPY or matcher.quick_ratio() < NEAR_COPY:
        return 0.0
    if (likeness := round(matcher.ratio(), 4)) < NEAR_COPY or _exchanges_words(left, right):
        return 0.0
    return likeness


def _exchanges_words(text: str, other: str) -> bool:
    """Whether each has words more often than the other."""
    left, right = Counter(WORD.findall(text)), Counter(WORD.findall(other))
    return bool(left - right) and bool(right - left)


def _is_unspaced(text: str) -> bool:
    """Whether it is in a script that writes no spaces, as Chinese."""
    return len(text) > 20 * max(len(text.split()), 1)
