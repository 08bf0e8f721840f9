"""BM25 as a judge: it rewards rare words shared with the query. It errs on other texts than an embedding does."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

from multigrain.retrieval.bm25 import Statistics, Words, statistics_of


class Bm25Judge:
    """Relevance = BM25 of text and query, 0 or more.

    Word rarity and mean length are counted once over the corpus, so a score does not depend on other texts in the call.

    Args:
        language: see `multigrain.retrieval.bm25.Words`.
        queries: all queries that will be scored.
        documents: the texts of the corpus, read once, when the first text is judged.
    """

    def __init__(self, language: str, queries: Iterable[str], documents: Iterable[str]) -> None:
        self._words = Words(language)
        self._queries, self._documents = queries, documents

    @cached_property
    def _statistics(self) -> Statistics:
        return statistics_of(self._queries, self._documents, self._words)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the BM25 of each (query, text)."""
        if not pairs:
            return []
        distinct = list(dict.fromkeys(chain.from_iterable(pairs)))
        ids, names = self._words(distinct)
        words = {text: [names[number] for number in found] for text, found in zip(distinct, ids, strict=True)}
        counts = {text: Counter(words[text]) for text in dict.fromkeys(text for _, text in pairs)}
        return [self._statistics.bm25(words[query], counts[text]) for query, text in pairs]
