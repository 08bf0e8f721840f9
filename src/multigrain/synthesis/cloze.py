"""Write hard negatives by cloze: exchange the decisive term of the positive for another of its kind.

The result reads like the positive and is as long, but is about something else. The most decisive terms are words that
the positive shares with the query, ranked by rarity among all queries and frequency in the positive. Numbers, names
and long words follow.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable

import Stemmer

from multigrain.records import Pair, folded

WORD = re.compile(r"\w+(?:[-']\w+)*")
COMMON = 0.1
"""Share of the queries above which a word is too common to be decisive."""
SHORTEST = 3
"""Letters of the shortest stem that can be decisive."""
MOST_COUNTED = 2
"""Maximum number of occurrences that add to the weight of a term; a more frequent term usually names the field."""


class Cloze:
    """Finds the decisive terms of a positive, by the words of all queries.

    Args:
        queries: all queries of the training part; only counts of their words are kept.
        language: name of the Snowball stemmer; if there is none of that name, words are not stemmed.
    """

    def __init__(self, queries: Iterable[str], language: str = "english") -> None:
        try:
            self._stemmer = Stemmer.Stemmer(language.lower())
        except KeyError:
            self._stemmer = None
        self._queries = 0
        self._counts: Counter[str] = Counter()
        for query in queries:
            self._queries += 1
            self._counts.update(self._stems(query))

    def terms(self, pair: Pair) -> list[str]:
        """Return the exchangeable terms of the positive, the most decisive first; never empty."""
        asked = self._stems(pair.query)
        telling = {stem for stem in asked if self._is_telling(stem)}
        found: dict[str, str] = {}
        for term in self._runs(pair.positive, asked, telling):
            found.setdefault(folded(term), term)
        text = folded(pair.positive)
        ranked = sorted(found.values(), key=lambda term: -self._weight(term, text))
        return [*ranked, *self._others(pair.positive, {folded(term) for term in ranked})] or [pair.positive]

    def is_same(self, term: str, other: str) -> bool:
        """Return whether the other term says the same, or the same and more, or is empty."""
        stems = self._stems(term)
        return not self._stems(other) or folded(term) == folded(other) or bool(stems and stems <= self._stems(other))

    def _stems(self, text: str) -> set[str]:
        return {self._stem(word) for word in WORD.findall(text)}

    def _stem(self, word: str) -> str:
        return str(self._stemmer.stemWord(word.lower())) if self._stemmer else word.lower()

    def _is_telling(self, stem: str) -> bool:
        return len(stem) >= SHORTEST and self._counts[stem] <= max(COMMON * self._queries, 1)

    def _runs(self, positive: str, asked: set[str], telling: set[str]) -> Iterable[str]:
        """Yield runs of adjacent query words as terms; each begins and ends with a telling word."""
        run: list[re.Match[str]] = []
        for match in WORD.finditer(positive):
            if run and (self._stem(match[0]) not in asked or positive[run[-1].end() : match.start()] != " "):
                yield from self._trimmed(run, positive, telling)
                run = []
            if self._stem(match[0]) in asked:
                run.append(match)
        yield from self._trimmed(run, positive, telling)

    def _trimmed(self, run: list[re.Match[str]], positive: str, telling: set[str]) -> Iterable[str]:
        places = [place for place, match in enumerate(run) if self._stem(match[0]) in telling]
        if places:
            yield positive[run[places[0]].start() : run[places[-1]].end()]

    def _weight(self, term: str, text: str) -> float:
        rarity = sum(math.log(1 + self._queries / (1 + self._counts[stem])) for stem in self._stems(term))
        return rarity * min(len(_occurrences(folded(term)).findall(text)), MOST_COUNTED)

    def _others(self, positive: str, taken: set[str]) -> list[str]:
        """Return numbers, then names, then long words, for positives that share nothing with the query."""
        words = dict.fromkeys(word for word in WORD.findall(positive) if folded(word) not in taken)
        numbers = [word for word in words if any(character.isdigit() for character in word)]
        names = [word for word in list(words)[1:] if word[0].isupper() and word not in numbers]
        rest = [word for word in words if word not in numbers and word not in names]
        long = sorted(rest, key=lambda word: -len(word))
        return [*numbers[:2], *names[:2], *long[:2]]


def exchange(positive: str, term: str, other: str) -> str:
    """Return the positive with every occurrence of the term replaced by the other term.

    >>> exchange("Iron rusts, and iron is cheap.", "iron", "zinc")
    'Zinc rusts, and zinc is cheap.'
    """

    def put(match: re.Match[str]) -> str:
        return other[:1].upper() + other[1:] if match[0][:1].isupper() and other[:1].islower() else other

    return _occurrences(term).sub(put, positive)


def _occurrences(term: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", re.IGNORECASE)
