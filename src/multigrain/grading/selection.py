r"""Choose one candidate of each grade so that every judge sees the relevance rise.

The candidates of a pair are the nodes of a graph, in rising order of grade; from c to d leads an edge if d has the
higher grade, and no judge finds it less relevant than c. The tuple is the path of the greatest value

    \sum_c (FILLED - |log length ratio|  + WRITTEN if written + ASKED if it has the grade it was asked for)
      + \sum_{c -> d} mean over judges of GAP min(r(d) - r(c), WIDE),      with the positive (r = 1) as the last node

so first of all as many grades as can be, then texts as long as the positive, well apart from each other. Found
by dynamic programming in O(candidates^2).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from multigrain.records import Candidate

FILLED, WRITTEN, ASKED, GAP, WIDE = 10.0, 0.3, 0.3, 4.0, 0.35


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate with the measurements of the judges."""

    candidate: Candidate
    relevance: tuple[float, ...]
    """Relative relevance r = s(q, c) / s(q, p), by each judge."""
    grade: int
    length: float
    """log(words / words of the positive)."""
    answers: bool = False
    """A language model says that it answers the query."""

    @property
    def value(self) -> float:
        """Return the value of the candidate by itself, whatever stands beside it."""
        written = WRITTEN if self.candidate.source == "llm" else 0.0
        asked = ASKED if self.candidate.grade == self.grade else 0.0
        return FILLED - abs(self.length) + written + asked


class Choice(NamedTuple):
    """The chosen candidates and the others."""

    chosen: list[Measured]
    left: list[tuple[Measured, str]]
    """Each with "surplus" (its grade is filled) or "order" (it is not)."""


def choose_rising(candidates: Sequence[Measured], per_grade: int = 1) -> Choice:
    """Choose up to `per_grade` candidates of each grade, such that no judge finds them out of order.

    For more than one of a grade, paths are taken one after the other; no judge finds their union out of order either.
    """
    left = sorted(candidates, key=lambda m: (m.grade, m.relevance, m.candidate.text))
    chosen: list[Measured] = []
    for _ in range(per_grade):
        path = _best_path([m for m in left if all(_agree(m, other) for other in chosen)])
        chosen += path
        taken = set(map(id, path))
        left = [m for m in left if id(m) not in taken]
    filled = Counter(m.grade for m in chosen)
    return Choice(chosen, [(m, "surplus" if filled[m.grade] == per_grade else "order") for m in left])


def _best_path(nodes: Sequence[Measured]) -> list[Measured]:
    values: list[float] = []
    before: list[int | None] = []
    for index, node in enumerate(nodes):
        options = [
            (values[earlier] + _gap(nodes[earlier].relevance, node.relevance), earlier)
            for earlier in range(index)
            if _rises(nodes[earlier], node)
        ]
        best, place = max(options, default=(0.0, None), key=lambda option: option[0])
        values.append(best + node.value)
        before.append(place)
    if not nodes:
        return []
    ends = []
    for value, node in zip(values, nodes, strict=True):
        positive = (1.0,) * len(node.relevance)
        ends.append(value + _gap(node.relevance, positive))
    place = ends.index(max(ends))
    path = []
    while place is not None:
        path.append(nodes[place])
        place = before[place]
    return path[::-1]


def _rises(low: Measured, high: Measured) -> bool:
    pairs = zip(low.relevance, high.relevance, strict=True)
    return low.grade < high.grade and all(a <= b for a, b in pairs)


def _agree(one: Measured, other: Measured) -> bool:
    return one.grade == other.grade or _rises(one, other) or _rises(other, one)


def _gap(low: Sequence[float], high: Sequence[float]) -> float:
    return GAP * fmean(min(b - a, WIDE) for a, b in zip(low, high, strict=True))
