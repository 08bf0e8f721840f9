"""Cheap rules that need no model: what cannot be a negative, whatever a judge says."""

from difflib import SequenceMatcher

from multigrain.records import Candidate, Pair, folded

FEWEST_WORDS = 3
NEAR_COPY = 0.9
"""Share of matching characters (Ratcliff and Obershelp) at which two texts count as the same."""
COMPARED = 600
"""Characters that are compared; the time grows with the square of it."""
LABEL_ECHOES = ("Query:", "Answer:", "passage:")


def broken_rule(candidate: Candidate, pair: Pair, earlier: list[str]) -> tuple[str, float] | None:
    """The first rule that the candidate breaks, with the value that breaks it; None where it breaks none.

    Args:
        candidate: the text to look at.
        pair: the pair it was proposed for.
        earlier: the texts of this pair that were kept before.
    """
    words = len(candidate.text.split())
    if words < FEWEST_WORDS:
        return "too short", float(words)
    if any(label in candidate.text for label in LABEL_ECHOES):
        return "echo of the prompt", 1.0
    for name, text in (("copy of the query", pair.query), ("copy of the positive", pair.positive)):
        if (likeness := _likeness(candidate.text, text)) >= NEAR_COPY:
            return name, likeness
    for text in earlier:
        if (likeness := _likeness(candidate.text, text)) >= NEAR_COPY:
            return "copy of another candidate", likeness
    return None


def _likeness(text: str, other: str) -> float:
    """Share of matching characters, 0 to 1; the cheap upper bounds are asked first."""
    matcher = SequenceMatcher(None, folded(text)[:COMPARED], folded(other)[:COMPARED], autojunk=False)
    if matcher.real_quick_ratio() < NEAR_COPY or matcher.quick_ratio() < NEAR_COPY:
        return 0.0
    return round(matcher.ratio(), 4)
