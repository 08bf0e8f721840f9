"""Batches of neighbours: tuples on the same subject, whose documents are hard negatives of each other's queries.

Such batches need no more texts than random ones. Tuples are grouped by vectors that the judge has already computed, and
batches are filled from whole groups.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multigrain.model.roles import Embed, embed_queries
from multigrain.records import GradedTuple

SCALE = 2048
"""Length to which vectors are scaled before they are rounded to integers. Their dot products are then exact in single
precision in any order of summation, so the groups do not depend on the number of threads."""
AT_ONCE = 8192
"""Number of tuples searched for neighbours at once, with their vectors in memory in single precision."""

Vectors = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Groups tuples into neighbours.

    Attributes:
        vectors: (N, d), the vectors of all tuples from `vectors_of`.
        size: number of tuples in a group.
    """

    vectors: Vectors
    size: int

    def grouped(self, order: Sequence[int], shuffler: random.Random) -> list[int]:
        """Return the tuples group by group.

        Tuples are visited in the given order; each one not yet in a group forms one with its nearest ungrouped
        tuples. The groups are then shuffled, because the last ones had the fewest tuples to choose from. If there are
        more tuples than `AT_ONCE`, they are first split into parts of at most that size: repeatedly in half, along
        the line through two tuples drawn at random.

        Args:
            order: the indices of the tuples, shuffled.
            shuffler: draws the parts and the order of the groups.
        """
        groups: list[NDArray[np.int64]] = []
        for part in self._parts(np.array(order, dtype=np.int64), shuffler):
            groups += self._groups_of(part)
        shuffler.shuffle(groups)
        return [int(place) for group in groups for place in group]

    def _parts(self, places: NDArray[np.int64], shuffler: random.Random) -> list[NDArray[np.int64]]:
        if len(places) <= AT_ONCE:
            return [places]
        first, second = shuffler.sample(range(len(places)), 2)
        line = self._exact(places[[first]])[0] - self._exact(places[[second]])[0]
        starts = range(0, len(places), AT_ONCE)
        along = np.concatenate([self._exact(places[start : start + AT_ONCE]) @ line for start in starts])
        half = len(places) // 2
        is_near = np.zeros(len(places), dtype=bool)
        is_near[np.argsort(along, kind="stable")[:half]] = True
        return self._parts(places[is_near], shuffler) + self._parts(places[~is_near], shuffler)

    def _groups_of(self, places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return groups of nearest neighbours among these tuples; the last group may be smaller."""
        vectors = self._exact(places)
        is_left = np.ones(len(places), dtype=bool)
        groups = []
        for first in range(len(places)):
            if not is_left[first]:
                continue
            nearness = np.where(is_left, vectors @ vectors[first], -np.inf)
            nearness[first] = np.inf
            members = np.argsort(-nearness, kind="stable")[: self.size]
            members = members[is_left[members]]
            is_left[members] = False
            groups.append(places[members])
        return groups

    def _exact(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.vectors[places].astype(np.float32)


def vectors_of(tuples: Sequence[GradedTuple], embed: Embed) -> Vectors:
    """Return (N, d): the mean vector of query and positive, scaled to length `SCALE` and rounded to integers."""
    parts = [np.empty((0, 0), np.int16)] if not tuples else []
    for start in range(0, len(tuples), AT_ONCE):
        some = tuples[start : start + AT_ONCE]
        mean = embed_queries(embed, some) + embed([graded.positive for graded in some], "document")
        length = np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        parts.append(np.rint(SCALE * mean / length).astype(np.int16))
    return np.concatenate(parts)
