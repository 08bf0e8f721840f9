"""Find the exchanged term in a candidate that is the positive with one term exchanged for another."""

from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache

from multigrain.records import folded

SAME_TEXT = 0.8
"""Minimum share of equal words for two texts to count as one text with a term exchanged."""
COMPARED = 300
"""Words of each text that are compared."""
REMEMBERED = 4096
"""Comparisons that are cached."""
MARGIN = 0.1
"""Extra distance below the positive, required of a text that is the positive with a term exchanged. A closer text still
answers the query: the term was not decisive."""
SYNONYM = 0.65
"""Minimum relevance of a term to another for them to mean the same ("melanoma", "skin cancer")."""


@lru_cache(REMEMBERED)
def exchanged_terms(text: str, positive: str) -> tuple[str, str] | None:
    """Return (term in the positive, term in the text) of the most frequent exchange; None for two different texts.

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
