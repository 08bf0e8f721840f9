"""Retrieval metrics of one query. No torch.

A ranking is given as the relevance of the documents in the order in which they were retrieved; a document is
relevant if its relevance is above 0.
"""

from collections.abc import Sequence
from math import log2

NDCG, MRR, RECALL = "nDCG@10", "MRR@10", "Recall@100"
METRICS = (NDCG, MRR, RECALL)
DEPTH = 100
"""Documents of a ranking that the metrics look at."""


def score_ranking(ranking: Sequence[int], judged: Sequence[int]) -> dict[str, float]:
    """All metrics of one ranking.

    Args:
        ranking: relevance of the documents retrieved, best first, at least the first `DEPTH` of them.
        judged: relevance of all judged documents of the query.
    """
    return {NDCG: ndcg(ranking, judged, 10), MRR: reciprocal_rank(ranking, 10), RECALL: recall(ranking, judged, 100)}


def ndcg(ranking: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Discounted cumulative gain over that of the best ranking: sum of rel_i / log2(i + 1), i from 1 to k.

    >>> round(ndcg([0, 1], [1], 10), 4)
    0.6309
    """
    ideal = _dcg(sorted(judged, reverse=True)[:k])
    return _dcg(ranking[:k]) / ideal if ideal else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / log2(position + 2) for position, gain in enumerate(gains))


def reciprocal_rank(ranking: Sequence[int], k: int) -> float:
    """1 / rank of the first relevant document among the first k, else 0."""
    return next((1 / (position + 1) for position, gain in enumerate(ranking[:k]) if gain > 0), 0.0)


def recall(ranking: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Share of the relevant documents that are among the first k."""
    relevant = sum(gain > 0 for gain in judged)
    return sum(gain > 0 for gain in ranking[:k]) / relevant if relevant else 0.0
