"""Is a difference real? Paired bootstrap over queries. No torch."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 200


def paired_bootstrap(before: Sequence[float], after: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Mean difference after - before, and the ends of its 95 % percentile interval.

    Queries are drawn with replacement, each with both of its scores, so what makes a query easy for both
    models cancels out (Efron and Tibshirani, 1993).
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            differences[random.integers(len(differences), size=(CHUNK, len(differences)))].mean(axis=1)
            for _ in range(RESAMPLES // CHUNK)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(differences.mean()), float(low), float(high)
