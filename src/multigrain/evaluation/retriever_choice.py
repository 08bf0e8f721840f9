"""Choose the weight of BM25 in the hybrid, and the retriever to search by, on queries that were not trained on.

The weight is found by a bracketed search: the best of a grid of doubling values, then Brent's method between its
neighbours. It replaces the default only if the 95 % interval of the paired difference in nDCG@10 is above 0. With few
queries, the default therefore usually stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from multigrain.data.record_file import Numbers
from multigrain.evaluation.evaluate import Search
from multigrain.evaluation.hybrid import WEIGHT, Pool, WordMatches
from multigrain.evaluation.metrics import BM25, DENSE, HYBRID, NDCG
from multigrain.evaluation.significance import Difference, paired_bootstrap

GRID = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
LARGEST = 2 * GRID[-1]
"""The weight beyond which BM25 alone decides, except between ties."""
CLOSE = 0.01
"""Precision to which a weight is found and rounded."""
FEWEST = 50
"""Queries below which nothing is chosen."""
FUSED = "rrf"
"""Name of the control, reciprocal rank fusion, in `Choice.scores`."""
SHOWN = 10
"""Ranking depth of the metric, in documents."""


@dataclass(frozen=True)
class Choice:
    """How to search with a model.

    Attributes:
        best: the retriever with the highest nDCG@10 on the queries; the hybrid if there are too few queries.
        weight: weight of BM25 in the hybrid.
        queries: number of queries.
        fitted: the best weight on the queries; None if there are too few.
        difference: nDCG@10 at that weight minus nDCG@10 at the default, with its interval.
        scores: nDCG@10 of each retriever, and of reciprocal rank fusion, on the queries.
    """

    best: str = HYBRID
    weight: float = WEIGHT
    queries: int = 0
    fitted: float | None = None
    difference: Difference | None = None
    scores: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the choice as plain values."""
        return asdict(self)


def undecided(retrievers: Sequence[str], queries: int = 0) -> Choice:
    """Return the choice for too few queries: the hybrid, if it is measured, at the default weight."""
    return Choice(HYBRID if HYBRID in retrievers else DENSE, queries=queries)


def choose(searches: Sequence[Search], retrievers: Sequence[str], seed: int) -> Choice:
    """Choose weight and retriever on the queries of some searches, one for each source of the run.

    Args:
        searches: searches with queries that were not trained on, and the results of BM25.
        retrievers: the retrievers to choose among.
        seed: seed of the resamples.
    """
    count = sum(len(search.task.queries) for search in searches)
    if count < FEWEST:
        return undecided(retrievers, count)
    hybrid = _Hybrid(searches)
    weight = fitted = hybrid.best_weight()
    difference = paired_bootstrap(hybrid.scores(WEIGHT), hybrid.scores(fitted), seed)
    if difference.low <= 0:
        weight = WEIGHT
    scores = {
        DENSE: fmean(each for search in searches for each in _ndcg(search, search.found.numbers)),
        BM25: fmean(each for search in searches for each in _ndcg(search, _words_of(search).numbers)),
        HYBRID: hybrid.mean(weight),
    }
    best = max((name for name in (HYBRID, DENSE, BM25) if name in retrievers), key=scores.__getitem__)
    scores[FUSED] = hybrid.fused()
    return Choice(best, weight, count, fitted, difference, scores)


class _Hybrid:
    """The hybrid at any weight, for the queries of some searches."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = [(search, list(search.pools())) for search in searches]
        self._known: dict[float, list[float]] = {}

    def best_weight(self) -> float:
        """Return the weight with the highest nDCG@10, by a bracketed search; of ties, the default, else the least."""
        from scipy.optimize import minimize_scalar

        self.mean(WEIGHT)
        place = int(np.argmax([self.mean(weight) for weight in GRID]))
        bracket = (0.0, *GRID, LARGEST)[place : place + 3]
        minimize_scalar(
            self._loss, bounds=(bracket[0], bracket[2]), method="bounded", options={"xatol": CLOSE, "maxiter": 12}
        )
        return max(sorted(self._known, key=_default_first), key=self.mean)

    def fused(self) -> float:
        """Return the mean nDCG@10 of reciprocal rank fusion."""
        return fmean(self._ndcg_by(lambda pool: pool.fused(SHOWN)))

    def mean(self, weight: float) -> float:
        """Return the mean nDCG@10 over all queries."""
        return fmean(self.scores(weight))

    def scores(self, weight: float) -> list[float]:
        """Return the nDCG@10 of each query."""
        if weight not in self._known:
            self._known[weight] = self._ndcg_by(lambda pool: pool.ranked(weight, SHOWN))
        return self._known[weight]

    def _ndcg_by(self, ranked: Callable[[Pool], Numbers]) -> list[float]:
        found: list[float] = []
        for search, pools in self._searches:
            found += _ndcg(search, np.concatenate([ranked(pool) for pool in pools]))
        return found

    def _loss(self, weight: float) -> float:
        return -self.mean(round(float(weight), 2))


def _default_first(weight: float) -> tuple[bool, float]:
    return weight != WEIGHT, weight


def _words_of(search: Search) -> WordMatches:
    assert search.words is not None
    return search.words


def _ndcg(search: Search, numbers: Any) -> list[float]:
    return [scores[NDCG] for scores in search.scores(numbers).values()]
