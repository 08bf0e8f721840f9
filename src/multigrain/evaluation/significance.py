"""Intervals and tests of differences between two models on the same items. Does not import torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multigrain.evaluation.evaluate import Scores
from multigrain.evaluation.metrics import COSINE, GOLD, SPEARMAN, Values, correlation, ranks

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 200
"""Resamples in memory at once."""


class Difference(NamedTuple):
    """A difference between two models, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """The values of one metric of one model.

    Letters: S trainings that differ in their seed, N items, R resamples.

    Attributes:
        values: (S, N) values.
        gold: (N,) human scores, or None.

    The overall metric is the mean of the values. With `gold`, it is the rank correlation with `gold`, averaged over the
    trainings.
    """

    values: Values
    gold: Values | None = None

    @classmethod
    def of(cls, values: ArrayLike, gold: ArrayLike | None = None) -> "Sample":
        """Make a sample of (N,) or (S, N) values."""
        known = None if gold is None else np.asarray(gold, dtype=np.float64)
        return cls(np.atleast_2d(np.asarray(values, dtype=np.float64)), known)

    def each(self) -> list[float]:
        """Return the metric of each training."""
        everything = np.arange(self.values.shape[1])[None]
        return [float(value) for value in _statistic(self, everything)[:, 0]]


def paired_bootstrap(before: ArrayLike | Sample, after: ArrayLike | Sample, seed: int) -> Difference:
    """Return the difference after - before, and the ends of its 95 % percentile interval.

    Items are drawn with replacement, each with both of its scores, so whatever makes an item easy for both models
    cancels out (Efron and Tibshirani, 1993). If a model has several trainings, these are drawn with replacement too, so
    that the interval also covers the variation between trainings; with three trainings it is still a little narrow.
    """
    one, other = _sample(before), _sample(after)
    random = np.random.default_rng(seed)
    count = one.values.shape[1]
    means = np.concatenate([_drawn(one, other, count, random) for _ in range(RESAMPLES // CHUNK)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(_value(other) - _value(one), float(low), float(high))


def _sample(values: ArrayLike | Sample) -> Sample:
    return values if isinstance(values, Sample) else Sample.of(values)


def _value(sample: Sample) -> float:
    return float(np.mean(sample.each()))


def _drawn(one: Sample, other: Sample, count: int, random: np.random.Generator) -> Values:
    """Return the difference in each of CHUNK resamples, (CHUNK,)."""
    items = random.integers(count, size=(CHUNK, count))
    before = _over_trainings(_statistic(one, items), random)
    after = _over_trainings(_statistic(other, items), random)
    return after - before


def _over_trainings(values: Values, random: np.random.Generator) -> Values:
    """Return means over trainings, drawn with replacement for each resample: (S, R) to (R,)."""
    trainings, resamples = values.shape
    drawn = random.integers(trainings, size=(trainings, resamples))
    means: Values = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
    return means


def _statistic(sample: Sample, items: NDArray[np.int64]) -> Values:
    """Return the metric of each training on R draws of items: items (R, N) to (S, R)."""
    if sample.gold is None:
        means: Values = np.stack([row[items].mean(axis=1) for row in sample.values])
        return means
    gold = ranks(sample.gold[items])
    correlations: Values = np.stack([correlation(ranks(row[items]), gold) for row in sample.values])
    return correlations


def randomisation_test(before: ArrayLike | Sample, after: ArrayLike | Sample, seed: int) -> float:
    """Return the two-sided p-value of the hypothesis that it does not matter which of the two models scores an item.

    For each of 10,000 draws, the scores of a random half of the items are exchanged between the models. The p-value is
    the share of draws (including the observed one) whose difference is as large as the observed one (Noreen, 1989;
    Smucker et al., 2007). With several trainings, all scores of an item are exchanged together. For a rank correlation,
    the ranks of the item's cosines within each training are exchanged. The p-value is therefore about items only: it
    takes the trainings as given.
    """
    one = _exchangeable(_sample(before))
    other = _exchangeable(_sample(after))
    count = math.lcm(len(one.values), len(other.values))
    pairs = list(zip(_repeated(one.values, count), _repeated(other.values, count), strict=True))
    random = np.random.default_rng(seed)
    observed = abs(_value(other) - _value(one))
    as_large = 0
    for _ in range(RESAMPLES // CHUNK):
        swapped = random.integers(2, size=(CHUNK, one.values.shape[1]), dtype=np.int8).astype(bool)
        differences = np.mean([_swapped(a, b, one.gold, swapped) for a, b in pairs], axis=0)
        as_large += int((np.abs(differences) >= observed - 1e-12).sum())
    return (as_large + 1) / (RESAMPLES + 1)


def _exchangeable(sample: Sample) -> Sample:
    if sample.gold is None:
        return Sample(sample.values.mean(axis=0, keepdims=True))
    return Sample(ranks(sample.values), ranks(sample.gold))


def _repeated(values: Values, count: int) -> Values:
    """Repeat trainings until there are `count`: (S, N) to (count, N)."""
    return np.tile(values, (count // len(values), 1))


def _swapped(one: Values, other: Values, gold: Values | None, swapped: NDArray[np.bool_]) -> Values:
    """Return the differences between two trainings after exchanging the marked items.

    Args:
        one: (N,) values of a training of one model.
        other: (N,) values of a training of the other model.
        gold: (N,) centred ranks of the human scores, or None.
        swapped: (R, N) marks of the items to exchange.

    Returns:
        (R,) differences.
    """
    if gold is None:
        signs = np.where(swapped, -1.0, 1.0)
        means: Values = signs @ (other - one) / len(one)
        return means
    after = correlation(ranks(np.where(swapped, one, other)), gold)
    before = correlation(ranks(np.where(swapped, other, one)), gold)
    return after - before


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for multiple testing (Holm, 1979), in the given order.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than the one before it.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def sample_of(trainings: Sequence[Scores], metric: str, ids: Sequence[str]) -> Sample:
    """Return one metric of all trainings, on the items with these ids."""
    own = COSINE if metric == SPEARMAN else metric
    values = [[scores[id][own] for id in ids] for scores in trainings]
    gold = [trainings[0][id][GOLD] for id in ids] if metric == SPEARMAN else None
    return Sample.of(values, gold)


def ids_of(scores: Scores, metric: str) -> list[str]:
    """Return the ids of the items that have the metric."""
    return [id for id, item in scores.items() if metric == SPEARMAN or metric in item]
