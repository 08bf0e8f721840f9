"""Hybrid search by meaning and words: the weighted sum of a document's cosine and BM25.

    hybrid(q, d) = cos(q, d) + w BM25(q, d) / max over d' of BM25(q, d')

BM25 counts as a share of the query's highest score, because its scale depends on the number of words in the query. Both
terms are then at most 1, and one weight w serves all queries. The form is that of Wang, Zhuang and Zuccon (2021,
"BERT-based dense retrievers require interpolation with BM25 for effective passage retrieval") with scores normalized
per query. Up to scale, it is the convex combination of Bruch, Gai and Ingber (2022, arXiv 2210.11934).

Only a pool is ranked: all documents among the first `POOL` by cosine or by BM25, each with both scores. No document
outside the pool can score more than the last cosine plus w times the last share of the two lists. Above that bound, the
ranking is exactly that of a search of the whole corpus (the threshold algorithm of Fagin, Lotem and Naor, 2001).

Letters: Q queries, P places of a query in the pool, k documents of a ranking.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multigrain.data.record_file import Numbers
from multigrain.evaluation.nearest import NONE, Nearest
from multigrain.model.roles import Vectors
from multigrain.retrieval.kept_bm25 import KeptBm25

POOL = 500
"""Documents pooled from each ranking. On SciFact's 807 training claims over 5,183 abstracts, the first 100 ranks were
exact for all claims, at w from 0.1 to 1.6; with 100 pooled documents, the first 10 were exact for all but one claim."""
WEIGHT = 0.3
"""Default weight of BM25."""
RRF_K = 60
"""The constant of reciprocal rank fusion, as its authors set it."""


@dataclass(frozen=True)
class WordMatches:
    """The results of BM25 for Q queries.

    Attributes:
        index: the index that was searched.
        queries: (Q,) texts.
        own: (Q,) number of the document that is the query itself and is not ranked, or `NONE`.
        numbers: (Q, depth) documents, best first, or `NONE`.
        scores: (Q, depth) BM25 scores of these documents.
    """

    index: KeptBm25
    queries: Sequence[str]
    own: Numbers
    numbers: Numbers
    scores: Vectors

    @classmethod
    def of(cls, index: KeptBm25, queries: Sequence[str], own: Numbers, depth: int = POOL) -> "WordMatches":
        """Search an index for the first `depth` documents."""
        found = index.nearest(queries, depth, own)
        return cls(index, queries, own, found.numbers, found.scores)


@dataclass(frozen=True)
class Pool:
    """The top documents of either ranking, in descending order of their ids.

    Attributes:
        numbers: (Q, P) documents, or `NONE`.
        cosines: (Q, P) cosines; minus infinity where there is no document.
        shares: (Q, P) BM25 scores as a share of the query's highest.
        outside: (Q, 2) highest cosine and share that a document outside the pool can have.
    """

    numbers: Numbers
    cosines: Vectors
    shares: Vectors
    outside: Vectors

    def ranked(self, weight: float, k: int) -> Numbers:
        """Return the k best documents by hybrid score, (Q, k), or `NONE`; of equal scores, the greater id is first."""
        return self._best(self.scores(weight), k)

    def scores(self, weight: float) -> NDArray[np.float64]:
        """Return the hybrid score of each document, (Q, P)."""
        return self.cosines.astype(np.float64) + weight * self.shares

    def fused(self, k: int) -> Numbers:
        """Return the k best documents by reciprocal rank fusion, (Q, k) (Cormack, Clarke and Büttcher, 2009).

        A document scores the sum of 1 / (60 + rank) over the pool's rankings by cosine and by BM25. This is a control
        for the weighted sum: it needs no weight, and ignores how far apart the scores are.
        """
        present = self.numbers != NONE
        by_cosine = 1 / (RRF_K + _ranks(self.cosines))
        by_words = np.where(self.shares > 0, 1 / (RRF_K + _ranks(self.shares)), 0)
        return self._best(np.where(present, by_cosine + by_words, -np.inf), k)

    def is_exact(self, weight: float, k: int) -> NDArray[np.bool_]:
        """Return for which queries, (Q,), no document outside the pool can be among the k best."""
        scores = np.sort(self.scores(weight), axis=1)[:, ::-1]
        last = scores[:, min(k, scores.shape[1]) - 1]
        bound = self.outside[:, 0].astype(np.float64) + weight * self.outside[:, 1]
        exact: NDArray[np.bool_] = last > bound
        return exact | ~np.isfinite(bound)

    def _best(self, scores: NDArray[np.float64], k: int) -> Numbers:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # ties keep the order of ids
        best: Numbers = np.take_along_axis(self.numbers, order, axis=1)
        return best


def pooled(found: Nearest, words: WordMatches, rows: slice) -> Pool:
    """Pool both rankings of some queries.

    Args:
        found: the nearest documents, and the cosines of the documents in `words`.
        words: the results of BM25.
        rows: the queries.
    """
    own = words.own[rows, None]
    nearest, matching = found.numbers[rows], words.numbers[rows]
    of_nearest = words.index.scores(words.queries[rows], nearest)
    numbers = np.concatenate([nearest, np.where(_is_in(matching, nearest), NONE, matching)], axis=1)
    numbers[numbers == own] = NONE
    cosines = np.concatenate([found.cosines[rows], found.wanted[rows]], axis=1)
    scores = np.concatenate([of_nearest, words.scores[rows]], axis=1)
    highest = words.scores[rows, :1]
    shares = np.divide(scores, highest, out=np.zeros_like(scores), where=highest > 0)
    present = numbers != NONE
    ids = np.where(present, words.index.id_ranks[np.maximum(numbers, 0)], NONE) if present.any() else numbers
    order = np.argsort(-ids, axis=1, kind="stable")
    cosines[~present], shares[~present] = -np.inf, 0
    last_share = np.divide(words.scores[rows, -1:], highest, out=np.zeros_like(highest), where=highest > 0)
    outside = np.concatenate([found.cosines[rows, -1:], last_share], axis=1)
    numbers, cosines, shares = (np.take_along_axis(part, order, axis=1) for part in (numbers, cosines, shares))
    return Pool(numbers, cosines, shares, outside)


def _is_in(numbers: Numbers, others: Numbers) -> NDArray[np.bool_]:
    """Return which numbers, (Q, a), are among the others in their row, (Q, b)."""
    if not numbers.size or not others.size:
        return np.zeros(numbers.shape, dtype=bool)
    width = max(int(numbers.max()), int(others.max())) + 2  # `NONE` has a place too
    rows = np.arange(len(numbers))[:, None] * width + 1
    found: NDArray[np.bool_] = np.isin(numbers + rows, others + rows)
    return found


def _ranks(values: Vectors) -> NDArray[np.int64]:
    """Return the rank, from 1, of each value in its row, greatest first; ties keep their order."""
    order = np.argsort(-values, axis=1, kind="stable")
    ranks: NDArray[np.int64] = np.argsort(order, axis=1, kind="stable") + 1
    return ranks
