"""Calibrate a language model as a judge of whether a passage answers a query.

It rates from 0 to 3, on the scale of TREC's assessors that UMBRELA (arXiv 2406.06519) gives to language models. The
meaning of a rating differs between models, so the threshold is measured: positives should be rated at or above it, and
passages known to be irrelevant below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RATINGS = (0, 1, 2, 3)
USABLE = 0.75
"""Minimum balanced accuracy of a usable judge."""
FEWEST_KNOWN = 10
"""Minimum number of known passages on each side; with fewer, the accuracy may be chance."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The lowest rating that counts as answering the query, and how well it separates the known passages."""

    threshold: int
    accuracy: float
    """Balanced: 0.5 is chance."""
    known: int
    """Number of passages on the smaller side."""

    @property
    def is_usable(self) -> bool:
        """Return whether the judge is accurate enough, on enough passages, to drop negatives by it."""
        return self.accuracy >= USABLE and self.known >= FEWEST_KNOWN

    def answers(self, rating: int) -> bool:
        """Return whether a passage of this rating counts as answering the query; it would be a false negative."""
        return rating >= self.threshold


def calibrate(relevant: Sequence[int], irrelevant: Sequence[int]) -> Calibration:
    """Return the threshold t from 1 to 3 with the highest balanced accuracy; of equals the lowest.

        (share of relevant rated >= t + share of irrelevant rated < t) / 2

    The lowest of equals lets the fewest false negatives pass.

    >>> calibrate(relevant=[3, 3, 2, 1], irrelevant=[0, 1, 0, 0])
    Calibration(threshold=1, accuracy=0.875, known=4)

    Args:
        relevant: ratings of known positives.
        irrelevant: ratings of known negatives, such as random passages of the corpus.

    Raises:
        ValueError: one side is empty.
    """
    if not relevant or not irrelevant:
        raise ValueError("calibration needs ratings of known positives and of known negatives")
    accuracies = {threshold: _balanced(relevant, irrelevant, threshold) for threshold in RATINGS[1:]}
    best = max(accuracies, key=lambda threshold: (accuracies[threshold], -threshold))
    return Calibration(best, round(accuracies[best], 4), min(len(relevant), len(irrelevant)))


def _balanced(relevant: Sequence[int], irrelevant: Sequence[int], threshold: int) -> float:
    kept = sum(rating >= threshold for rating in relevant) / len(relevant)
    return (kept + sum(rating < threshold for rating in irrelevant) / len(irrelevant)) / 2
