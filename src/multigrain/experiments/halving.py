"""Successive halving with paired intervals: which candidates go on to the next round, and whether one is taken.

Candidates are numbered; 0 is the settings as they are. It is in every round, and another one is taken only where its
interval lies above it. No torch.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from multigrain.evaluation.significance import Difference, paired_bootstrap

Fate = Literal["goes on", "clearly worse", "lower half"]
Scores = Mapping[int, ArrayLike]
"""Candidate -> (N,) or (S, N): N dev queries, in the same order for all, after S trainings."""
SEED = 7
"""Of the resamples."""


class Standing(NamedTuple):
    """Where a candidate stands after a round: its mean, its difference to the best, and what becomes of it."""

    mean: float
    to_best: Difference | None
    fate: Fate


def shares_of(steps: int, fewest: int) -> list[float]:
    """Return the share of the steps that each round makes: twice that of the round before, and in the last all.

    >>> shares_of(80, 20), shares_of(70, 20), shares_of(10, 20)
    ([0.25, 0.5, 1.0], [0.5, 1.0], [1.0])
    """
    doublings = int(math.log2(steps / fewest)) if steps > fewest else 0
    return [1 / 2**power for power in range(doublings, -1, -1)]


def ranked(scores: Scores) -> list[int]:
    """Return the candidates, the best by its mean first; of equal ones the first."""
    return sorted(scores, key=lambda candidate: (-_mean(scores[candidate]), candidate))


def standings(scores: Scores, places: int) -> dict[int, Standing]:
    """Tell what becomes of each candidate of a round, the best first.

    Those end whose interval to the best lies below 0, and then those for whom there is no place, which are the lower
    half (Jamieson and Talwalkar 2016, *Non-stochastic best arm identification*, arXiv 1502.07943). Candidate 0 goes on.

    Args:
        scores: those of the round.
        places: how many go on beside candidate 0, at most.

    >>> outcome = standings({0: [0.5] * 9, 1: [0.9] * 9, 2: [0.1] * 9}, places=1)
    >>> {candidate: standing.fate for candidate, standing in outcome.items()}
    {1: 'goes on', 0: 'goes on', 2: 'clearly worse'}
    """
    best, *others = ranked(scores)
    found = {best: Standing(_mean(scores[best]), None, "goes on")}
    left = places - (best != 0)
    for candidate in others:
        to_best = paired_bootstrap(scores[best], scores[candidate], SEED)
        fate: Fate = "goes on"
        if candidate and to_best.high < 0:
            fate = "clearly worse"
        elif candidate:
            fate, left = ("goes on", left - 1) if left > 0 else ("lower half", left)
        found[candidate] = Standing(_mean(scores[candidate]), to_best, fate)
    return found


def challenge(scores: Scores) -> tuple[int, Difference] | None:
    """Return the best candidate but 0, with its difference to 0; None where there is no other."""
    others = ranked({candidate: values for candidate, values in scores.items() if candidate})
    return (others[0], paired_bootstrap(scores[0], scores[others[0]], SEED)) if others else None


def is_decided(scores: Scores) -> bool:
    """Tell whether more dev queries could change little: the settings as they are lead, or are clearly behind."""
    found = challenge(scores)
    return found is None or found[1].value <= 0 or found[1].low > 0


def _mean(values: ArrayLike) -> float:
    return float(np.mean(values))
