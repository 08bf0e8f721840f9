r"""Choose one candidate of each grade so that relevance rises for every judge.

The candidates of a pair are the nodes of a graph. An edge leads from c to d if d has the higher grade and no judge
finds it less relevant than c. The tuple is the path of the greatest value

    \sum_c ( FILLED
             + ASKED                          if it has the grade it was asked for
             + WRITTEN - |log length ratio|   if it was written
             + NEAREST (max(r(c), 0) - 1)     if it was mined, and its grade takes the nearest )
      + \sum_{c -> d} mean over judges of GAP min(r(d) - r(c), WIDE),      with the positive (r = 1) as the last node

so filling as many grades as possible comes first. Then come written texts as long as the positive, before mined ones;
and among mined ones the nearest, or those well apart from each other. Dynamic programming finds the path in
O(candidates^2), for many pairs at once.

Letters: C candidates, P pairs, G = 4 grades, S slots (the most candidates that a pair has of one grade), J judges.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.grading.measured import Flags, Measured, Numbers
from multigrain.records import GRADES
from multigrain.retrieval.runs_of_equals import ranks_in_runs

FILLED, WRITTEN, ASKED, GAP, WIDE = 100.0, 1.5, 0.3, 4.0, 0.35
NEAREST = 20.0
"""Several times `GAP`: nearness decides before the distance to other grades."""
AT_ONCE = 2**20
"""Edges between two grades that are in memory at once."""
NO_SLOT = -1

Values = NDArray[np.float64]


class Choice(NamedTuple):
    """The outcome for each candidate."""

    chosen: Flags
    """(C,)"""
    surplus: Flags
    """(C,) candidates that are not chosen because their grade is full."""


def choose_rising(candidates: Measured, per_grade: int = 1, nearest: Collection[int] = ()) -> Choice:
    """Choose up to `per_grade` candidates of each grade and pair, such that no judge finds them out of order.

    If `per_grade` is above 1, paths are taken one after the other; no judge finds their union out of order either.
    Of equal paths, the one with less relevant candidates is taken, then the one with earlier candidates.

    Args:
        candidates: candidates of all pairs.
        per_grade: most negatives of a grade.
        nearest: grades for which the nearest mined documents are chosen.
    """
    values = _values(candidates, nearest)
    chosen = np.zeros(len(candidates), dtype=bool)
    surplus = np.zeros(len(candidates), dtype=bool)
    judges = [candidates.relevance[:, judge] for judge in range(candidates.relevance.shape[1])]
    order = np.lexsort((*judges[::-1], candidates.grade, candidates.pair))
    cells = candidates.pair[order] * len(GRADES) + candidates.grade[order] - 1
    slots = ranks_in_runs(cells)
    width = int(slots.max(initial=-1)) + 1
    pairs, starts = np.unique(candidates.pair[order], return_index=True)
    step = max(1, AT_ONCE // max(width * width, 1))
    for first in range(0, len(pairs), step):
        end = starts[first + step] if first + step < len(pairs) else len(order)
        rows = slice(starts[first], end)
        grid = _grid_of(candidates, values, order[rows], slots[rows], pairs[first : first + step])
        is_chosen = grid.choose(per_grade)
        is_full = is_chosen.sum(axis=2) == per_grade
        is_left = ~is_chosen & (grid.candidate >= 0)
        chosen[grid.candidate[is_chosen]] = True
        surplus[grid.candidate[is_left & is_full[:, :, None]]] = True
    return Choice(chosen, surplus)


@dataclass(frozen=True)
class _Grid:
    """The candidates of some pairs, by pair, grade and slot; within a grade in ascending order of relevance."""

    candidate: Numbers
    """(P, G, S), -1 where a slot is empty."""
    relevance: Values
    """(P, G, S, J)"""
    value: Values
    """(P, G, S): the value that a candidate adds by itself."""

    def choose(self, per_grade: int) -> Flags:
        """Return flags of the candidates on the best paths, (P, G, S)."""
        is_open = self.candidate >= 0
        chosen = np.zeros_like(is_open)
        for _ in range(per_grade):
            path = self._best_path(is_open)
            pair, grade = np.nonzero(path != NO_SLOT)
            chosen[pair, grade, path[pair, grade]] = True
            is_open &= ~chosen & self._agrees_with(path)
        return chosen

    def _best_path(self, is_open: Flags) -> Numbers:
        """Return the slot of the best path's candidate of each grade, (P, G), or `NO_SLOT`."""
        pairs, grades, slots = is_open.shape
        best = np.where(is_open, self.value, -np.inf)
        before = np.full((pairs, grades, slots), NO_SLOT)  # places among all slots of the pair
        for grade in range(1, grades):
            low = self.relevance[:, :grade].reshape(pairs, grade * slots, 1, -1)
            high = self.relevance[:, grade][:, None]
            gains = best[:, :grade].reshape(pairs, grade * slots, 1) + _gap(low, high)
            gains[~(low <= high).all(axis=3)] = -np.inf
            place = gains.argmax(axis=1)
            gain = np.take_along_axis(gains, place[:, None], axis=1)[:, 0]
            has_any = gain > -np.inf
            best[:, grade] += np.where(has_any, gain, 0.0)
            before[:, grade] = np.where(has_any, place, NO_SLOT)
        ends = best + _gap(self.relevance, np.ones_like(self.relevance))
        return _traced(ends.reshape(pairs, -1), before.reshape(pairs, -1), slots)

    def _agrees_with(self, path: Numbers) -> Flags:
        """Return flags of the candidates that no judge finds out of order beside those of the path, (P, G, S)."""
        agrees = np.ones(self.candidate.shape, dtype=bool)
        for grade in range(len(GRADES)):
            slot = np.maximum(path[:, grade], 0)
            other = np.take_along_axis(self.relevance[:, grade], slot[:, None, None], axis=1)[:, None]  # (P, 1, 1, J)
            is_taken = (path[:, grade] != NO_SLOT)[:, None, None]
            lower, higher = self.relevance[:, :grade], self.relevance[:, grade + 1 :]
            agrees[:, :grade] &= (lower <= other).all(axis=3) | ~is_taken
            agrees[:, grade + 1 :] &= (other <= higher).all(axis=3) | ~is_taken
        return agrees


def _traced(ends: Values, before: Numbers, slots: int) -> Numbers:
    """Follow the best paths back from their ends.

    Args:
        ends: (P, G S) the value of the best path that ends at each slot.
        before: (P, G S) the slot before, on that path.
        slots: S.

    Returns:
        (P, G), see `_Grid._best_path`.
    """
    pairs = np.arange(len(ends))
    path = np.full((len(ends), len(GRADES)), NO_SLOT)
    place = ends.argmax(axis=1)
    place = np.where(ends[pairs, place] > -np.inf, place, NO_SLOT)
    for _ in GRADES:
        on = pairs[place != NO_SLOT]
        path[on, place[on] // slots] = place[on] % slots
        place = np.where(place != NO_SLOT, before[pairs, place], NO_SLOT)
    return path


def _values(candidates: Measured, nearest: Collection[int]) -> Values:
    """Return the value that each candidate adds by itself, (C,)."""
    values = np.where(candidates.asked == candidates.grade, FILLED + ASKED, FILLED)
    values += np.where(candidates.is_written, WRITTEN - np.abs(candidates.length), 0.0)
    is_near = ~candidates.is_written & np.isin(candidates.grade, list(nearest))
    values += np.where(is_near, NEAREST * (np.maximum(candidates.relevance[:, 0], 0.0) - 1), 0.0)
    return values


def _grid_of(candidates: Measured, values: Values, rows: Numbers, slots: Numbers, pairs: Numbers) -> _Grid:
    """Arrange the candidates `rows` by pair, grade and slot."""
    shape = (len(pairs), len(GRADES), int(slots.max(initial=-1)) + 1)
    at = np.searchsorted(pairs, candidates.pair[rows]), candidates.grade[rows] - 1, slots
    candidate = np.full(shape, -1)
    candidate[at] = rows
    relevance = np.zeros((*shape, candidates.relevance.shape[1]))
    relevance[at] = candidates.relevance[rows]
    value = np.zeros(shape)
    value[at] = values[rows]
    return _Grid(candidate, relevance, value)


def _gap(low: Values, high: Values) -> Values:
    """Return GAP times the mean over judges, the last axis, of min(high - low, WIDE)."""
    gap: Values = GAP * np.minimum(high - low, WIDE).mean(axis=-1)
    return gap
