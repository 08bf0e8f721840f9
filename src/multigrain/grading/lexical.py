"""BM25 as a judge: how many rare words a text shares with the query. It errs elsewhere than an embedding does."""

from collections.abc import Sequence

from multigrain.words import Words, bm25_index


class Bm25Judge:
    """Relevance = BM25 of text and query, 0 or more.

    How rare a word is, and how long a text is on average, is counted over the texts of all pairs that are asked
    about together: many pairs at once give steady figures.

    Args:
        language: see `multigrain.words.Words`.
    """

    def __init__(self, language: str) -> None:
        self._words = Words(language)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The BM25 of each (query, text)."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        texts = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in pairs))}
        ids, vocabulary = self._words([*texts, *queries]) if pairs else ([], [])
        if not any(ids[: len(texts)]):  # no text has a word
            return [0.0] * len(pairs)
        index = bm25_index(ids[: len(texts)], {word: number for number, word in enumerate(vocabulary)})
        of_query = dict(zip(queries, ids[len(texts) :], strict=True))
        found = {query: index.get_scores(words) if words else [0.0] * len(texts) for query, words in of_query.items()}
        return [float(found[query][texts[text]]) for query, text in pairs]
