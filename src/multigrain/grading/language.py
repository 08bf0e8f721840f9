"""Recognize candidates in another language than the positive, and refusals by a language model.

Both rules drop a candidate only if they are certain: dropping one good candidate in a hundred costs more than letting
one bad candidate pass.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

from multigrain.records import folded

FEWEST_LETTERS = 30
"""Minimum number of letters that identify a language: names, codes and numbers look like any language."""
CERTAIN = 0.7
"""Minimum probability of a language that counts as known."""
RULED_OUT = 0.01
"""Maximum probability of a language that is ruled out; related ones such as Danish and Norwegian stay above it."""
NOT_WRITTEN = {"la", "zxx", "pcm", "vo", "eo"}
"""Wrong guesses for lists of species, diagnoses and signs: Latin, no language, Nigerian Pidgin, Volapuk, Esperanto."""
LOOKED_AT = 600
"""Characters that are examined; more take more time and change nothing."""
OPENING = 300
"""Leading characters in which a refusal shows."""
RECENT = 64
"""Texts whose results are cached: a positive is compared with each of its candidates."""
SAME_SCRIPT, OTHER_SCRIPT = 0.9, 0.6
"""Minimum share of letters for a text to count as written in a script, and as written in other scripts."""


def language_of(text: str) -> tuple[str, float] | None:
    """Return the language of a text (ISO 639-1) and its probability; None if it is too short or uncertain.

    >>> language_of("The treatment usually takes two weeks and can be done at home.")[0]
    'en'
    >>> language_of("12 mg, 40.5 mg") is None
    True
    """
    if sum(map(str.isalpha, text[:LOOKED_AT])) < FEWEST_LETTERS:
        return None
    language, probability = _ranking(text)[0]
    return (language, probability) if probability >= CERTAIN and language not in NOT_WRITTEN else None


def is_other_language(text: str, like: str) -> bool:
    """Return whether `text` is certainly not in the language of `like`.

    That is certain if its letters are of another script, or if both languages are known and that of `like` is ruled
    out for `text`. Lists, code, numbers, names and short texts never count as another language.

    >>> is_other_language("Die Behandlung dauert meistens zwei ganze Wochen.", "The treatment usually takes two weeks.")
    True
    """
    if _is_other_script(text, like):
        return True
    wanted, found = language_of(like), language_of(text)
    if wanted is None or found is None or wanted[0] == found[0]:
        return False
    return dict(_ranking(text))[wanted[0]] <= RULED_OUT


def _is_other_script(text: str, like: str) -> bool:
    """Return whether `like` is nearly all in one script, and most of `text` in others."""
    own, found = _scripts(like), _scripts(text)
    if min(len(own), len(found)) < FEWEST_LETTERS // 3:  # fewer letters tell a script than a language
        return False
    script = max(set(own), key=own.count)
    others = sum(other != script for other in found) / len(found)
    return own.count(script) >= SAME_SCRIPT * len(own) and others >= OTHER_SCRIPT


@lru_cache(RECENT)
def _scripts(text: str) -> list[str]:
    """Return the script of each letter: the first word of its name in Unicode.

    Greek is left out because formulas use it. The scripts of Japanese and Korean count as Chinese, with which they are
    mixed.
    """
    names = (
        unicodedata.name(letter, "").split("-")[0].split(" ")[0] for letter in text[:LOOKED_AT] if letter.isalpha()
    )
    mixed = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}
    return ["CJK" if name in mixed else name for name in names if name not in {"GREEK", "MATHEMATICAL"}]


@lru_cache(RECENT)
def _ranking(text: str) -> list[tuple[str, float]]:
    ranking: list[tuple[str, float]] = _identifier().rank(text[:LOOKED_AT])
    return ranking


@cache
def _identifier() -> Any:
    """Load langid.py (Lui and Baldwin 2012): naive Bayes over byte n-grams, about 100 languages, 5 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


_SORRY = r"(?:(?:i'm|i am) (?:very |so |really )?sorry|sorry|i apologi[sz]e|unfortunately)"
_CANNOT = r"(?:can't|cannot|can not|won't|will not|am unable to|am not able to|'m unable to|'m not able to)"
_HELP = r"(?:help|assist|provide|fulfill?|comply|create|generate|write|produce|complete|continue|do (?:that|this))"
_AI = r"(?:an ai(?: language)?(?: model| assistant)?|a(?: large)? language model)"
REFUSAL = re.compile(
    rf"{_SORRY},? (?:but )?i ?{_CANNOT}(?: {_HELP}|[.,!]|$)"
    rf"|i ?{_CANNOT} {_HELP}\b[^.!?]{{0,60}}\b(?:requests?|this|prompts?|quer(?:y|ies))\b"
    rf"|as {_AI},|(?:i'm|i am) (?:just |only )?{_AI}\b"
)


def is_refusal(text: str) -> bool:
    """Return whether a text begins with a refusal by a language model; later parts are ignored.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("I'm sorry I was late, she said.")
    (True, False)
    """
    opening = folded(text[:OPENING]).replace("\u2019", "'").lstrip("\"'*")
    return REFUSAL.match(opening) is not None
