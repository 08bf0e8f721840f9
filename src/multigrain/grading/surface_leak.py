"""The leak test: check that surface features do not tell positives from negatives.

If negatives are shorter than positives, or all end with a full stop, then a model learns that instead of relevance.
A classifier that sees only surface features of a text (`multigrain.grading.surface_features`) must therefore be
hardly better than chance. It is tested on tuples that it was not trained on, and measured by its *balanced* accuracy

    (share of positives it calls positive + share of negatives it calls negative) / 2

which is 0.5 for chance, however many negatives a tuple has.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.grading.surface_features import FEATURES, surface

LIMIT = 0.65
"""Balanced accuracy above which surface features give the negatives away."""
FEWEST_TUPLES, MOST_TUPLES = 20, 3000
FOLDS = 5
TELLING = 3
"""Features that a report names."""

Rows = NDArray[np.float64]
"""(number of texts, number of features)"""
Flags = NDArray[np.bool_]
"""(number of texts,)"""


class Sample(NamedTuple):
    """A text, the id of its tuple, and the label that it is counted under, such as its grade; "" for none."""

    group: str
    text: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature, its accuracy in telling both sides apart by itself, and its mean on both."""

    name: str
    accuracy: float
    positive: float
    negative: float


@dataclass(frozen=True, slots=True)
class Leak:
    """The result of the leak test. Accuracies are balanced: 0.5 is chance."""

    accuracy: float
    tuples: int
    features: tuple[Feature, ...]
    """The most telling features, best first."""
    by_label: dict[str, float]
    """Label of negatives -> accuracy on the positives and these negatives."""

    @property
    def is_found(self) -> bool:
        """Return whether the accuracy is above `LIMIT`."""
        return self.accuracy > LIMIT


def find_leak(positives: Iterable[Sample], negatives: Iterable[Sample], seed: int = 0) -> Leak | None:
    """Test whether surface features tell positives from negatives; None for fewer than 20 tuples.

    The classifier is gradient boosting, which also finds ranges ("negatives have 50 to 60 words") and combinations of
    features. Of more than 3,000 tuples, 3,000 are drawn.

    Args:
        positives: positives with the ids of their tuples.
        negatives: negatives, likewise, and with the label they are also counted under.
        seed: seed of the draw, the folds and the classifier.
    """
    from threadpoolctl import threadpool_limits

    groups, samples, is_positive = _common(list(positives), list(negatives), seed)
    if groups < FEWEST_TUPLES:
        return None
    rows = np.array([surface(sample.text) for sample in samples])
    folds = _folds([sample.group for sample in samples], seed)
    classifier = _boosting(seed)  # before the limit, which holds only for libraries loaded by then
    with threadpool_limits(1):  # the work is small: on a busy machine threads wait longer than they work
        called = _called(classifier, rows, is_positive, folds)
        telling = _telling(rows, is_positive, folds)
    by_label = _by_label(called, is_positive, [sample.label for sample in samples])
    return Leak(_balanced(called, is_positive), groups, telling, by_label)


class _Common(NamedTuple):
    """The texts of tuples that have a positive and a negative."""

    groups: int
    """Number of tuples."""
    samples: list[Sample]
    is_positive: Flags
    """(samples)"""


def _common(positives: list[Sample], negatives: list[Sample], seed: int) -> _Common:
    """Find the tuples that have both sides; draw `MOST_TUPLES` if there are more."""
    groups = sorted({sample.group for sample in positives} & {sample.group for sample in negatives})
    if len(groups) > MOST_TUPLES:
        groups = np.random.default_rng(seed).choice(groups, MOST_TUPLES, replace=False).tolist()
    wanted = set(groups)
    kept = [sample for sample in positives if sample.group in wanted]
    others = [sample for sample in negatives if sample.group in wanted]
    samples = kept + others
    return _Common(len(groups), samples, is_positive=np.arange(len(samples)) < len(kept))


def _folds(groups: list[str], seed: int) -> NDArray[np.int64]:
    """Return the fold of each text; a tuple stays in one fold, or its topic would give it away."""
    names, index = np.unique(groups, return_inverse=True)
    fold: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(names))[index] % FOLDS
    return fold


def _called(classifier: Any, rows: Rows, is_positive: Flags, folds: NDArray[np.int64]) -> Flags:
    """Return whether a classifier trained on the other folds calls each text a positive.

    It does if the probability is above the share of positives. So both sides count alike although there are more
    negatives; weights in the training would do the same at three times the cost.
    """
    called = np.zeros(len(rows), dtype=bool)
    for fold in range(FOLDS):
        test = folds == fold
        trained = classifier.fit(rows[~test], is_positive[~test])
        called[test] = trained.predict_proba(rows[test])[:, 1] > is_positive[~test].mean()
    return called


def _boosting(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    # Small, because a large one would learn the noise of a few hundred tuples.
    return HistGradientBoostingClassifier(
        max_iter=60, max_depth=3, max_bins=32, early_stopping=False, random_state=seed
    )


def _by_label(called: Flags, is_positive: Flags, labels: list[str]) -> dict[str, float]:
    of = np.array(labels)
    names = sorted(set(of[~is_positive].tolist()) - {""})
    kept = {name: is_positive | (of == name) for name in names}
    return {name: _balanced(called[chosen], is_positive[chosen]) for name, chosen in kept.items()}


def _telling(rows: Rows, is_positive: Flags, folds: NDArray[np.int64]) -> tuple[Feature, ...]:
    """Return the most telling features, each by itself.

    Importances in the large classifier would be split among features that measure nearly the same.
    """
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=4, min_samples_leaf=5, random_state=0)
    features = []
    for number, name in enumerate(FEATURES):
        column = rows[:, [number]]
        accuracy = _balanced(_called(tree, column, is_positive, folds), is_positive)
        positive = round(float(column[is_positive].mean()), 3)
        negative = round(float(column[~is_positive].mean()), 3)
        features.append(Feature(name, accuracy, positive, negative))
    return tuple(sorted(features, key=lambda feature: -feature.accuracy)[:TELLING])


def _balanced(called: Flags, is_positive: Flags) -> float:
    return round(float(called[is_positive].mean() + (~called[~is_positive]).mean()) / 2, 4)
