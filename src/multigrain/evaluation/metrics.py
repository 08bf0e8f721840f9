"""Metrics of single queries and of whole tasks. Does not import torch.

A ranking is given as the relevance of the retrieved documents, in order; a document is relevant if its relevance is
above 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log2

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

NDCG, MRR, RECALL = "nDCG@10", "MRR@10", "Recall@100"
ORDER = "order"
"""Name of the metric that is 1 if a tuple's positive is nearest to the query and its grades follow in descending order.

The cosine of a grade is the mean over its negatives.
"""
COSINE, GOLD, SPEARMAN = "cosine", "gold", "Spearman"
"""Names of a pair's cosine and human score, and of the metric over all pairs."""
DEPTH = 100
"""Ranking depth of the metrics, in documents."""
DENSE, BM25, HYBRID = "dense", "bm25", "hybrid"
"""The retrievers: the model's cosine, BM25, and their weighted sum (`multigrain.evaluation.hybrid`)."""
RETRIEVERS = (DENSE, BM25, HYBRID)


def metric_by(retriever: str, metric: str) -> str:
    """Return the name of a metric for a retriever; for the model alone, it is the plain name.

    >>> metric_by("dense", "nDCG@10"), metric_by("hybrid", "nDCG@10")
    ('nDCG@10', 'nDCG@10 hybrid')
    """
    return metric if retriever == DENSE else f"{metric} {retriever}"


def is_of_model(metric: str) -> bool:
    """Return whether a metric is the model's own, not that of another retriever.

    >>> is_of_model("nDCG@10"), is_of_model("nDCG@10 bm25")
    (True, False)
    """
    return not metric.endswith((f" {BM25}", f" {HYBRID}"))


def score_ranking(ranking: Sequence[int], judged: Sequence[int]) -> dict[str, float]:
    """Return all metrics of one ranking.

    Args:
        ranking: relevance of the retrieved documents, best first, at least the first `DEPTH` of them.
        judged: relevance of all judged documents of the query.

    >>> score_ranking([0, 1], [1, 1])  # one relevant document is second, the other is not found
    {'nDCG@10': 0.38685280723454163, 'MRR@10': 0.5, 'Recall@100': 0.5}
    """
    return {
        NDCG: ndcg(ranking, judged, 10),
        MRR: reciprocal_rank(ranking, 10),
        RECALL: recall(ranking, judged, 100),
    }


def ndcg(ranking: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Return the normalized discounted cumulative gain of a ranking (Järvelin and Kekäläinen, 2002), from 0 to 1.

        DCG@k = sum over ranks i from 1 to k of rel_i / log2(i + 1)
        nDCG@k = DCG@k of the ranking / DCG@k of the best ranking of all judged documents

    As in trec_eval, the gain is the relevance itself, and a relevance below 0 counts as 0. A query without a relevant
    document scores 0.

    Args:
        ranking: relevance of the retrieved documents, best first.
        judged: relevance of all judged documents of the query.
        k: ranking depth.

    The only relevant document is second: DCG = 1 / log2(3) = 0.6309, and 1 / log2(2) = 1 would be best.

    >>> round(ndcg([0, 1], [1], 10), 4)
    0.6309
    """
    ideal = _dcg(sorted(judged, reverse=True)[:k])
    return _dcg(ranking[:k]) / ideal if ideal else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(position + 2) for position, gain in enumerate(gains))


def reciprocal_rank(ranking: Sequence[int], k: int) -> float:
    """Return 1 / rank of the first relevant document among the first k, else 0; their mean is MRR (Voorhees, 1999).

    The first relevant document is third:

    >>> round(reciprocal_rank([0, 0, 1, 1], 10), 4)
    0.3333
    """
    for rank, gain in enumerate(ranking[:k], start=1):
        if gain > 0:
            return 1 / rank
    return 0.0


def recall(ranking: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Return the share of the relevant documents that are among the first k; 0 if none is relevant.

    One of two relevant documents is among the first two:

    >>> recall([1, 0, 1], [1, 1], 2)
    0.5
    """
    relevant = sum(gain > 0 for gain in judged)
    return sum(gain > 0 for gain in ranking[:k]) / relevant if relevant else 0.0


def accuracy_of(grade: int) -> str:
    """Return the name of a grade's metric: the share of its negatives farther from the query than the positive.

    With cosines to the query of 0.8 for the positive, and 0.7 and 0.9 for the negatives of the grade, it is 0.5.
    """
    return f"accuracy {grade}"


def margin_of(grade: int) -> str:
    """Return the name of a grade's metric: the positive's cosine minus the mean cosine of the grade's negatives.

    With cosines to the query of 0.8 for the positive, and 0.5 and 0.7 for the negatives of the grade, it is 0.2.
    """
    return f"margin {grade}"


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Return the rank correlation (Spearman, 1904), from -1 to 1; 0 if either is constant.

    It is Pearson's correlation of the ranks; ties share their mean rank. Without ties it is
    1 - 6 sum d_i^2 / (n (n^2 - 1)), where d_i is the difference between the ranks of item i.

    The ranks differ by 0, 1 and 1: 1 - 6 * 2 / (3 * 8) = 0.5.

    >>> round(spearman([1, 2, 3], [1, 3, 2]), 4)
    0.5
    """
    return float(correlation(ranks(one), ranks(other)))


def ranks(values: ArrayLike) -> Values:
    """Return ranks along the last axis, minus their mean; ties share their mean rank.

    >>> ranks([0.3, 0.1, 0.3]).tolist()
    [0.5, -1.0, 0.5]
    """
    from scipy.stats import rankdata

    found: Values = rankdata(values, axis=-1)
    centred: Values = found - found.mean(axis=-1, keepdims=True)
    return centred


def correlation(one: Values, other: Values) -> Values:
    """Return Pearson's correlation of centred values along the last axis: (..., N) and (..., N) to (...).

        sum x_i y_i / sqrt(sum x_i^2 * sum y_i^2)

    It is 0 if either is constant.
    """
    norm = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    product: Values = (one * other).sum(axis=-1) / np.where(norm == 0, 1, norm)
    return product


def overall(items: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a task: means over the items that have the metric, or a rank correlation.

    >>> overall([{"order": 1.0, "margin 2": 0.5}, {"order": 0.0, "margin 1": 0.25}])
    {'order': 0.5, 'margin 1': 0.25, 'margin 2': 0.5}
    """
    listed = list(items)
    if listed and GOLD in listed[0]:
        cosines = [item[COSINE] for item in listed]
        scores_by_people = [item[GOLD] for item in listed]
        return {SPEARMAN: spearman(cosines, scores_by_people)}
    values: dict[str, list[float]] = {}
    for item in listed:
        for name, value in item.items():
            values.setdefault(name, []).append(value)
    names = list(values)
    if ORDER in values:
        names.sort(key=lambda name: (name != ORDER, name))  # else grades are in the order of the tuples
    return {name: sum(values[name]) / len(values[name]) for name in names}
