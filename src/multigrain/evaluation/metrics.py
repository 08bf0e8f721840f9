"""Metrics: of one query, and of all items of a task together. No torch.

A ranking is given as the relevance of the documents in the order in which they were retrieved; a document is
relevant if its relevance is above 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log2

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

NDCG, MRR, RECALL = "nDCG@10", "MRR@10", "Recall@100"
ORDER = "order"
"""1 where a tuple's positive is nearest to the query, and its grades follow, higher ones nearer (by their mean)."""
COSINE, GOLD, SPEARMAN = "cosine", "gold", "Spearman"
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

    Relevance below 0 counts as 0, as in trec_eval.

    >>> round(ndcg([0, 1], [1], 10), 4)
    0.6309
    """
    ideal = _dcg(sorted(judged, reverse=True)[:k])
    return _dcg(ranking[:k]) / ideal if ideal else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(position + 2) for position, gain in enumerate(gains))


def reciprocal_rank(ranking: Sequence[int], k: int) -> float:
    """1 / rank of the first relevant document among the first k, else 0."""
    return next((1 / (position + 1) for position, gain in enumerate(ranking[:k]) if gain > 0), 0.0)


def recall(ranking: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Share of the relevant documents that are among the first k."""
    relevant = sum(gain > 0 for gain in judged)
    return sum(gain > 0 for gain in ranking[:k]) / relevant if relevant else 0.0


def accuracy_of(grade: int) -> str:
    """The share of a tuple's negatives of the grade that are farther from the query than its positive."""
    return f"accuracy {grade}"


def margin_of(grade: int) -> str:
    """By how much the positive's cosine is above the mean of the negatives' of the grade."""
    return f"margin {grade}"


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Rank correlation, ties sharing their mean rank; 0 where one of both is constant.

    >>> round(spearman([1, 2, 3], [1, 3, 2]), 4)
    0.5
    """
    return float(correlation(ranks(one), ranks(other)))


def ranks(values: ArrayLike) -> Values:
    """Ranks along the last axis, less their mean; ties share theirs."""
    from scipy.stats import rankdata

    found: Values = rankdata(values, axis=-1)
    centred: Values = found - found.mean(axis=-1, keepdims=True)
    return centred


def correlation(one: Values, other: Values) -> Values:
    """Of centred values, along the last axis; 0 where one of both is constant."""
    norm = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    product: Values = (one * other).sum(axis=-1) / np.where(norm == 0, 1, norm)
    return product


def overall(items: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of a task: means over its items (those that have the metric), or a rank correlation."""
    listed = list(items)
    if listed and GOLD in listed[0]:
        return {SPEARMAN: spearman([item[COSINE] for item in listed], [item[GOLD] for item in listed])}
    names = list(dict.fromkeys(name for item in listed for name in item))
    if ORDER in names:
        names.sort(key=lambda name: (name != ORDER, name))  # the grades come as the tuples have them
    values = {name: [item[name] for item in listed if name in item] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}
