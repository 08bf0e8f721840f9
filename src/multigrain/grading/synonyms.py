"""Find the term that a candidate exchanges, where it is the positive with one term exchanged for another."""

from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache

from multigrain.records import folded

SAME_TEXT = 0.8
"""Share of the words in which two texts must agree to be one text with something exchanged."""
COMPARED = 300
"""Words of each text that are compared."""
REMEMBERED = 4096
"""Comparisons that are remembered."""
MARGIN = 0.1
"""So much further below the positive must a text be that is the positive with a term exchanged: else the term was
not what decides, and the text still answers the query."""
SYNONYM = 0.65
"""Relevance of a term to another from which on they say the same ("melanoma", "skin cancer")."""


@lru_cache(REMEMBERED)
def exchanged_terms(text: str, positive: str) -> tuple[str, str] | None:
    """Return (term in the positive, term in the text) of the commonest exchange; None for two different texts.

    >>> exchanged_terms("Boil the rice for ten minutes.", "Boil the eggs for ten minutes.")
    ('eggs', 'rice')
    """
    old, new = folded(positive).split()[:COMPARED], folded(text).split()[:COMPARED]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.quick_ratio() < SAME_TEXT or matcher.ratio() < SAME_TEXT:
        return None
    found = Counter((_term(old[a:b]), _term(new[c:d])) for tag, a, b, c, d in matcher.get_opcodes() if tag == "replace")
    return found.most_common(1)[0][0] if found else None


def _term(words: list[str]) -> str:
    return " ".join(words).strip(".,;:()[]\"'")
