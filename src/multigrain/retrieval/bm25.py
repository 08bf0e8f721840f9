"""BM25: the relevance of a text by the words that it shares with the query, and how texts are split into words.

    BM25(q, d) = sum over w in q of  idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|))
    idf(w)     = log(1 + (N - n(w) + 0.5) / (n(w) + 0.5))

with k1 = 1.5 and b = 0.75. tf(w, d) counts the word w in d, |d| the words of d, N the documents, n(w) the documents
that contain w. This is the form of Lucene (Kamphuis et al. 2020, "Which BM25 do you mean?"). Robertson et al. (1994)
have the factor k1 + 1 in the numerator, which changes no ranking. `multigrain.retrieval.bm25_index` searches with it.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log

import Stemmer

# bm25s imports JAX if it is installed, for a feature not used here; and JAX takes three quarters of a GPU.
_known = {"jax": sys.modules["jax"]} if "jax" in sys.modules else {}
sys.modules["jax"] = None  # type: ignore[assignment]  # makes the import fail
try:
    import bm25s
finally:
    del sys.modules["jax"]
    sys.modules.update(_known)

REMEMBERED = 32_768
"""Words whose stems are cached, at 300 bytes each: most words of a corpus occur again and again."""
AT_ONCE = 1024
"""Texts that are split into words at once."""


class Words:
    """Splits texts into words, drops stop words and stems the others.

    Args:
        language: an English name ("german") or a code ("de"). If bm25s has no stop words for it, none are dropped; if
            Snowball has no stemmer for it, words are not stemmed.
    """

    def __init__(self, language: str) -> None:
        self._stop_words: str | list[str] = language
        try:
            bm25s.tokenize("", stopwords=language, show_progress=False)
        except ValueError:
            self._stop_words = []
        try:
            self._stemmer = Stemmer.Stemmer(language, REMEMBERED)
        except KeyError:
            self._stemmer = None

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[str]]:
        """Return the numbers of the words of each text, and the words that the numbers stand for."""
        found = bm25s.tokenize(list(texts), stopwords=self._stop_words, stemmer=self._stemmer, show_progress=False)
        words = [""] * len(found.vocab)
        for word, number in found.vocab.items():
            words[number] = word
        return found.ids, words


K1, B = 1.5, 0.75
"""The parameters of BM25: how soon further occurrences of a word count less, and how much the length matters."""


@dataclass(frozen=True)
class Statistics:
    """The statistics of a corpus that BM25 needs."""

    documents: int
    length: float
    """Mean number of words of a document."""
    having: Mapping[str, int]
    """Word -> number of documents that contain it, for the words of the queries."""

    def bm25(self, query: Sequence[str], text: Counter[str]) -> float:
        """Return the BM25 of a text, given as its word counts."""
        norm = K1 * (1 - B + B * text.total() / (self.length or 1.0))
        return sum((self._idf(word) * text[word] / (text[word] + norm) for word in query if text[word]), start=0.0)

    def _idf(self, word: str) -> float:
        having = self.having.get(word, 0)
        return log(1 + (self.documents - having + 0.5) / (having + 0.5))


def statistics_of(queries: Iterable[str], documents: Iterable[str], words: Words) -> Statistics:
    """Return the statistics of a corpus, read once, for the words of some queries.

    Memory grows with the words of the queries, not with the corpus.
    """
    asked = iter(queries)
    texts = iter(documents)
    wanted: set[str] = set()
    while block := list(islice(asked, AT_ONCE)):
        wanted.update(words(block)[1])
    having = Counter[str]()
    count = length = 0
    while block := list(islice(texts, AT_ONCE)):
        found, names = words(block)
        count += len(block)
        length += sum(map(len, found))
        numbers = Counter(number for part in found for number in set(part))
        having.update({names[number]: times for number, times in numbers.items() if names[number] in wanted})
    return Statistics(count, length / max(count, 1), having)
