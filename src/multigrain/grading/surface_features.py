"""Surface features of a text: numbers for length, punctuation and style, but not for the words themselves.

The leak test (`multigrain.grading.surface_leak`) classifies by `surface`; reports print `statistics_of`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from statistics import fmean, quantiles
from typing import Any

import numpy as np

SENTENCE_END = re.compile(r"[.!?。！？]+(?=\s|$|[\"')\]])|[。！？]")
LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE)
SHORT_WORD = 3
"""Maximum number of letters in a short word. The share of short words approximates that of function words."""
REMEMBERED = 2**13
"""Texts whose features are cached: two tests use the same sample."""
MARKS = {
    "commas": ",，、",
    "colons and semicolons": ":;：；",
    "brackets": "()[]（）",
    "quotes": "\"'“”‘’«»「」",
    "dashes": "-–—",
    "question marks": "?？",
    "exclamation marks": "!！",
}
"""Kind of punctuation -> its signs, counted per 100 characters."""
FEATURES = (
    *("characters", "words", "sentences", "lines", "list marks"),
    *("characters a word", "words a sentence"),
    *("digits", "upper case", "short words", "distinct words"),
    *("begins in lower case", "ends with a full stop"),
    *MARKS,
)
"""Names of the features of `surface`, in order; `digits` to `distinct words` are shares of 0 to 1."""


@lru_cache(REMEMBERED)
def surface(text: str) -> tuple[float, ...]:
    """Return the features of one text, in the order of `FEATURES`.

    >>> dict(zip(FEATURES, surface("The cat sleeps. It is 12!"), strict=True))["words a sentence"]
    3.0
    """
    text = text.strip()
    words = text.split()
    sentences = max(len(SENTENCE_END.findall(text)), 1)
    characters, signs = len(text), _signs(text)
    lengths = list(map(len, words))
    return (
        *(characters, len(words), sentences, text.count("\n") + 1, len(LIST_MARK.findall(text))),
        *(_share(sum(lengths), len(words)), len(words) / sentences),
        *(_share(_count(signs, str.isdigit), characters), _upper_case(signs), _short_words(lengths), _distinct(words)),
        *(float(text[:1].islower()), float(text[-1:] in {".", "。"})),
        *(100 * _share(sum(signs[mark] for mark in marks), characters) for marks in MARKS.values()),
    )


def statistics_of(texts: Iterable[str]) -> dict[str, Any]:
    """Return length and style of a group of texts, ready for JSON; `{"texts": 0}` without texts.

    `words` and `characters` are [lower quartile, median, upper quartile]; the others are means of `surface`.
    """
    rows = np.array([surface(text) for text in texts])
    if not len(rows):
        return {"texts": 0}
    spread = {name: _quartiles(rows[:, FEATURES.index(name)].tolist()) for name in ("words", "characters")}
    means = {name: round(fmean(rows[:, column]), 4) for column, name in enumerate(FEATURES) if name not in spread}
    return {"texts": len(rows), **spread, **means}


def _quartiles(values: list[float]) -> list[float]:
    return [round(value, 1) for value in quantiles(values, n=4, method="inclusive")] if values[1:] else values * 3


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _signs(text: str) -> Counter[str]:
    """Count the characters of a text; numpy counts ASCII in a tenth of the time."""
    if not text.isascii():
        return Counter(text)
    counts = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8))
    return Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)})


def _count(signs: Counter[str], kind: Callable[[str], bool]) -> int:
    """Count the characters of a kind; each distinct one is checked once, which makes it fast."""
    return sum(count for sign, count in signs.items() if kind(sign))


def _upper_case(signs: Counter[str]) -> float:
    """Return the share of upper case among the letters that have case."""
    upper = _count(signs, str.isupper)
    return _share(upper, upper + _count(signs, str.islower))


def _short_words(lengths: list[int]) -> float:
    return _share(sum(lengths.count(length) for length in range(1, SHORT_WORD + 1)), len(lengths))


def _distinct(words: list[str]) -> float:
    """Return the share of distinct words among the first 50; over a whole text it would fall with the length."""
    first = [word.casefold() for word in words[:50]]
    return _share(len(set(first)), len(first))
