"""The curriculum: which negatives the model meets when.

A curriculum is a list of phases. Each has the grades of its negatives, its length in steps and its
temperature. The default goes from coarse to fine: grade 1 first, grade 4 last (*Negative Matters*, ACL 2025).
The order of training is a pure function of the tuples, the phases and the seed; no torch is needed to plan it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple


@dataclass(frozen=True)
class Row:
    """One training example: `negatives` holds one text for each grade of the phase."""

    query: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum, with its batches planned."""

    name: str
    grades: tuple[int, ...]
    temperature: float
    batches: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True)
class Curriculum:
    """All phases in order."""

    phases: tuple[Phase, ...]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return sum(len(phase.batches) for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase that step `step` (from 0) belongs to."""
        for phase in self.phases:
            if step < len(phase.batches):
                return phase
            step -= len(phase.batches)
        return self.phases[-1]


def plan(tuples: Sequence[GradedTuple], sections: Sequence[PhaseSection], batch_size: int, seed: int = 7) -> Curriculum:
    """Draw up every batch of the training.

    The tuples are gone through in a shuffled order, over all phases, and shuffled anew each time they are
    used up. No batch holds a query or a positive twice, for that would make a false in-batch negative. A tuple
    without a negative of some grade gives the nearest that it has; one without any is left out.

    Raises:
        DataError: there are too few different tuples to fill a batch.
    """
    usable = [graded for graded in tuples if graded.negatives or not any(s.grades for s in sections)]
    distinct = min(len({t.query for t in usable}), len({t.positive for t in usable}))
    if distinct < batch_size:
        raise _too_few(distinct, batch_size)
    rows = _endless(usable, random.Random(seed))
    waiting: list[GradedTuple] = []
    phases = []
    for section in sections:
        grades = tuple(sorted(section.grades))
        batches = tuple(
            tuple(_row(graded, grades) for graded in _batch(rows, waiting, batch_size, patience=2 * len(usable)))
            for _ in range(section.steps)
        )
        phases.append(Phase(section.name, grades, section.temperature, batches))
    return Curriculum(tuple(phases))


def _endless(tuples: Sequence[GradedTuple], shuffler: random.Random) -> Iterator[GradedTuple]:
    order = list(tuples)
    while True:
        shuffler.shuffle(order)
        yield from order


def _batch(rows: Iterator[GradedTuple], waiting: list[GradedTuple], size: int, patience: int) -> list[GradedTuple]:
    """The next `size` tuples that can stand together; the others wait for the next batch."""
    batch: list[GradedTuple] = []
    texts: set[str] = set()
    held_back: list[GradedTuple] = []
    queue = iter(waiting)
    drawn = 0
    while len(batch) < size:
        graded = next(queue, None)
        if graded is None:
            graded = next(rows)
            drawn += 1
            if drawn > patience:  # every tuple has come by
                raise _too_few(len(batch), size)
        if graded.query in texts or graded.positive in texts:
            held_back.append(graded)
            continue
        batch.append(graded)
        texts |= {graded.query, graded.positive}
    waiting[:] = [*held_back, *queue]
    return batch


def _too_few(found: int, wanted: int) -> DataError:
    return DataError(
        "training",
        f"found {found} tuples with different queries and positives; a batch needs {wanted}. "
        "Give more pairs, or lower training.batch_size.",
    )


def _row(graded: GradedTuple, grades: tuple[int, ...]) -> Row:
    return Row(graded.query, graded.positive, tuple(_nearest(graded, grade) for grade in grades))


def _nearest(graded: GradedTuple, grade: int) -> str:
    """The negative of this grade, or of the nearest grade; of two as near, the easier one."""
    return min(graded.negatives, key=lambda negative: (abs(negative.grade - grade), negative.grade)).text
