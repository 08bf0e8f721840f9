"""A judge that fuses embedding and BM25. It finds more than either, because they err on different texts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multigrain.grading.judges import EmbeddingJudge
from multigrain.model.roles import Embed
from multigrain.retrieval.bm25_index import Bm25Index


class FusedJudge:
    r"""Relevance = cosine + w BM25(q, d) / max BM25(q, .), the maximum taken over the corpus.

    Args:
        embed: texts to (number of texts, dimension) vectors of length 1.
        queries: all queries that will be scored.
        documents: the texts of the corpus, read once; None stands for one that is not counted.
        language: see `multigrain.retrieval.bm25.Words`.
        weight: w.
        folder: folder for a temporary file.

    Example:
        >>> def embed(texts, role):
        ...     return np.ones((len(texts), 1))
        >>> judge = FusedJudge(embed, ["a cat"], ["a dog", "cats"], "english", 0.3)
        >>> judge.scores([("a cat", "a dog"), ("a cat", "cats")]).tolist()
        [1.0, 1.3]
    """

    def __init__(
        self,
        embed: Embed,
        queries: Iterable[str],
        documents: Iterable[str | None],
        language: str,
        weight: float,
        *,
        folder: Path | None = None,
    ) -> None:
        distinct = list(dict.fromkeys(queries))
        self._number = {query: number for number, query in enumerate(distinct)}
        self._embedding, self._weight = EmbeddingJudge(embed), weight
        self._index = Bm25Index(distinct, documents, language, folder)
        self._highest = self._index.nearest(depth=1).scores[:, 0]

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the relevance of each (query, text), (pairs,)."""
        numbers = np.array([self._number[query] for query, _ in pairs], dtype=np.int64)
        words = self._index.scores_of_texts(numbers, [text for _, text in pairs]).astype(np.float64)
        shares = words / np.where(self._highest[numbers] > 0, self._highest[numbers], 1.0)
        return np.array(self._embedding.scores(pairs)) + self._weight * shares
