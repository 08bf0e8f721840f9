"""Successive halving with paired intervals: decide which recipes go on to the next rung, and whether one is chosen.

Recipes are numbered; recipe 0 is the current settings. It is in every rung, and another recipe is chosen only if the
interval of its difference from recipe 0 lies above zero. Does not import torch.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from multigrain.evaluation.significance import Difference, paired_bootstrap

Fate = Literal["goes on", "clearly worse", "lower half"]
Scores = Mapping[int, ArrayLike]
"""Recipe -> (N,) or (S, N) scores of N dev queries, in the same order for all recipes, after S trainings."""
SEED = 7
"""Seed of the resamples."""


class Standing(NamedTuple):
    """The result of a recipe in a rung: its mean, its difference from the best, and whether it goes on."""

    mean: float
    to_best: Difference | None
    fate: Fate


def shares_of(steps: int, fewest: int) -> list[float]:
    """Return the share of the steps that each rung trains: twice that of the rung before, up to all in the last.

    >>> shares_of(80, 20), shares_of(70, 20), shares_of(10, 20)
    ([0.25, 0.5, 1.0], [0.5, 1.0], [1.0])
    """
    doublings = int(math.log2(steps / fewest)) if steps > fewest else 0
    return [1 / 2**power for power in range(doublings, -1, -1)]


def ranked(scores: Scores) -> list[int]:
    """Return the recipes by descending mean; ties in order of their numbers."""
    return sorted(scores, key=lambda recipe: (-_mean(scores[recipe]), recipe))


def standings(scores: Scores, places: int) -> dict[int, Standing]:
    """Return the standing of each recipe of a rung, best first.

    Recipes are dropped if the interval of their difference from the best lies below 0, or if they are beyond `places`
    (Jamieson and Talwalkar 2016, *Non-stochastic best arm identification*, arXiv 1502.07943). Recipe 0 always goes on.

    Args:
        scores: the scores of the rung.
        places: maximum number of recipes that go on beside recipe 0.

    >>> outcome = standings({0: [0.5] * 9, 1: [0.9] * 9, 2: [0.1] * 9}, places=1)
    >>> {recipe: standing.fate for recipe, standing in outcome.items()}
    {1: 'goes on', 0: 'goes on', 2: 'clearly worse'}
    """
    best, *others = ranked(scores)
    found = {best: Standing(_mean(scores[best]), None, "goes on")}
    left = places - (best != 0)
    for recipe in others:
        to_best = paired_bootstrap(scores[best], scores[recipe], SEED)
        fate: Fate = "goes on"
        if recipe and to_best.high < 0:
            fate = "clearly worse"
        elif recipe:
            fate, left = ("goes on", left - 1) if left > 0 else ("lower half", left)
        found[recipe] = Standing(_mean(scores[recipe]), to_best, fate)
    return found


def challenge(scores: Scores) -> tuple[int, Difference] | None:
    """Return the best recipe other than 0, with its difference from 0; None if there is no other."""
    others = ranked({recipe: values for recipe, values in scores.items() if recipe})
    return (others[0], paired_bootstrap(scores[0], scores[others[0]], SEED)) if others else None


def is_decided(scores: Scores) -> bool:
    """Return whether more dev queries would change little: the current settings lead, or are clearly behind."""
    found = challenge(scores)
    return found is None or found[1].value <= 0 or found[1].low > 0


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, dtype=float).mean())
