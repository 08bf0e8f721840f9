"""Successive halving with paired intervals: which candidates go on to the next round, and which one is taken.

Candidates are numbered; 0 is the settings as they are. It is in every round, and another one is taken only where its
interval lies above it. No torch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from multigrain.evaluation.significance import Difference, paired_bootstrap

Fate = Literal["goes on", "clearly worse", "lower half"]
Scores = Mapping[int, Sequence[float]]
"""Candidate -> one value for each dev query, in the same order for all."""
SEED = 7
"""Of the resamples."""


class Standing(NamedTuple):
    """Where a candidate stands after a round: its mean, its difference to the best, and what becomes of it."""

    mean: float
    to_best: Difference | None
    fate: Fate


def rounds_of(steps: int, fewest: int) -> list[int]:
    """Return the steps of each round: each has twice those of the one before, and the last has all.

    >>> rounds_of(80, 20), rounds_of(70, 20), rounds_of(10, 20)
    ([20, 40, 80], [35, 70], [10])
    """
    doublings = int(math.log2(steps / fewest)) if steps > fewest else 0
    return [math.ceil(steps / 2**power) for power in range(doublings, -1, -1)]


def best_of(scores: Scores) -> int:
    """Return the candidate with the highest mean; of equal ones the first."""
    return min(scores, key=lambda candidate: (-_mean(scores[candidate]), candidate))


def standings(scores: Scores) -> dict[int, Standing]:
    """Tell what becomes of each candidate of a round, the best first.

    Those end whose interval to the best lies below 0, and then the lower half of the others that were in the round
    (Jamieson and Talwalkar 2016, *Non-stochastic best arm identification*, arXiv 1502.07943). Candidate 0 goes on.

    Args:
        scores: those of the round.

    >>> outcome = standings({0: [0.5] * 9, 1: [0.9] * 9, 2: [0.1] * 9})
    >>> {candidate: standing.fate for candidate, standing in outcome.items()}
    {1: 'goes on', 0: 'goes on', 2: 'clearly worse'}
    """
    best = best_of(scores)
    places = math.ceil(len(scores.keys() - {0}) / 2)
    found: dict[int, Standing] = {}
    for candidate in sorted(scores, key=lambda candidate: (-_mean(scores[candidate]), candidate)):
        to_best = None if candidate == best else paired_bootstrap(scores[best], scores[candidate], SEED)
        fate: Fate = "goes on"
        if candidate and to_best is not None and to_best.high < 0:
            fate = "clearly worse"
        elif candidate and places <= 0:
            fate = "lower half"
        elif candidate:
            places -= 1
        found[candidate] = Standing(_mean(scores[candidate]), to_best, fate)
    return found


def challenge(scores: Scores) -> tuple[int, Difference] | None:
    """Return the best candidate but 0, with its difference to 0; None where there is no other."""
    others = {candidate: values for candidate, values in scores.items() if candidate}
    if not others:
        return None
    best = best_of(others)
    return best, paired_bootstrap(scores[0], scores[best], SEED)


def is_decided(scores: Scores) -> bool:
    """Tell whether more dev queries could change nothing: the settings as they are lead, or are clearly behind."""
    found = challenge(scores)
    return found is None or found[1].value <= 0 or found[1].low > 0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
