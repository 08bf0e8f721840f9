"""The curriculum: which tuples the model meets when, and with which of their negatives.

The order of the tuples is a pure function of the tuples, the batch size and the seed, and the same whatever the
schedule is; the phase of a step decides which grades of a tuple's negatives it brings. So two schedules differ in
nothing but the negatives, and a training can be resumed at any step. No torch is needed to plan it.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative, folded

MOST_HELD = 256
POSITIVE = 5
"""The grade of a positive among those of the negatives."""


@dataclass(frozen=True)
class Document:
    """A text beside a query: its grade (0 where the tuple has none), the judge's score and its weight in the loss."""

    text: str
    grade: int
    score: float
    weight: float


@dataclass(frozen=True)
class Row:
    """One training example: the documents are the positive, then one for each grade of the phase."""

    id: str
    query: str
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Curriculum:
    """The phases, and the tuples of every step."""

    phases: tuple[PhaseSection, ...]
    tuples: tuple[GradedTuple, ...]
    batches: tuple[tuple[tuple[int, int], ...], ...]
    """Of each step: the places of its tuples, each with how often that tuple came before."""
    seed: int
    false_negative_above: float | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return len(self.batches)

    @property
    def batch_size(self) -> int:
        """Tuples of one step."""
        return len(self.batches[0])

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The step after the last of each phase, as the schedule has it."""
        return tuple(accumulate(phase.steps or 0 for phase in self.phases))

    def phase_at(self, step: int) -> int:
        """The place of the phase that step `step` (from 0) belongs to, as the schedule has it."""
        return next(index for index, bound in enumerate(self.bounds) if step < bound)

    def ids_at(self, step: int) -> list[str]:
        """The ids of the tuples of a step."""
        return [self.tuples[place].id for place, _ in self.batches[step]]

    def row(self, step: int, position: int, phase: int) -> Row:
        """The example at a position of a step, as the phase wants it."""
        section = self.phases[phase]
        place, turn = self.batches[step][position]
        graded = self.tuples[place]
        start = self.bounds[phase] - (section.steps or 0)
        weights = section.weights_at(min(1.0, max(0.0, (step - start + 0.5) / (section.steps or 1))))
        grades = section.grades
        if section.one_at_a_time:
            grades, weights = [self._one_of(phase, step)], {}
        documents = [Document(graded.positive, POSITIVE, _known(graded.score), 1.0)]
        for count, grade in enumerate(grades):
            documents.append(self._document(graded, grade, turn + grades[:count].count(grade), weights.get(grade, 1.0)))
        return Row(graded.id, graded.query, tuple(documents))

    def _document(self, graded: GradedTuple, grade: int, turn: int, weight: float) -> Document:
        """One of the negatives of this grade, each in its turn; the positive, without weight, where there is none."""
        negatives = [negative for negative in graded.negatives if negative.grade == grade]
        if not negatives:
            return Document(graded.positive, 0, _known(None), 0.0)
        negative = negatives[turn % len(negatives)]
        return Document(negative.text, grade, negative.score, 0.0 if self._is_false(graded, negative) else weight)

    def _is_false(self, graded: GradedTuple, negative: Negative) -> bool:
        limit = self.false_negative_above
        return limit is not None and negative.score >= limit * (1.0 if graded.score is None else graded.score)

    def _one_of(self, phase: int, step: int) -> int:
        """The grade of this step where a phase has one at a time."""
        order = self._orders[phase]
        return order[(step - self.bounds[phase]) % len(order)]

    @cached_property
    def _orders(self) -> dict[int, list[int]]:
        """For each such phase the grade of each step: each as often as the others, in random order."""
        orders = {}
        for index, section in enumerate(self.phases):
            if section.one_at_a_time:
                steps = section.steps or 1
                orders[index] = (section.grades * math.ceil(steps / len(section.grades)))[:steps]
                random.Random(f"{self.seed} {index}").shuffle(orders[index])
        return orders


def _known(score: float | None) -> float:
    return math.nan if score is None else score


def plan(
    tuples: Sequence[GradedTuple],
    phases: Sequence[PhaseSection],
    batch_size: int,
    seed: int = 7,
    *,
    by_task: bool = True,
    false_negative_above: float | None = None,
) -> Curriculum:
    """Draw up every batch of the training.

    The tuples are gone through in a shuffled order, over all phases, and shuffled anew each time they are used up. No
    batch holds a query or a positive twice, for that would make a false in-batch negative.

    Args:
        tuples: what there is to train on.
        phases: the schedule, with the steps of each phase (`multigrain.schedules.phases_of`).
        batch_size: tuples of one step.
        seed: of the order.
        by_task: whether a batch holds tuples of one task. Tasks too small to fill one share batches.
        false_negative_above: negatives with at least this share of the positive's score do not count.

    Raises:
        DataError: there are too few different tuples to fill a batch, or a negative is the positive.
    """
    for graded in tuples:
        if folded(graded.positive) in {folded(negative.text) for negative in graded.negatives}:
            raise DataError("training", f"the positive of tuple {graded.id} is one of its negatives too; take it out")
    _check_size(tuples, batch_size)
    pools = [
        _Pool(group, batch_size, random.Random(f"{seed} {name}"))
        for name, group in _groups(tuples, batch_size, by_task)
    ]
    used: Counter[int] = Counter()
    batches = []
    for step in range(sum(phase.steps or 0 for phase in phases)):
        # The pool that is furthest behind its share comes next.
        pool = max(pools, key=lambda pool: (step + 1) * pool.size / len(tuples) - pool.batches)
        places = pool.batch()
        batches.append(tuple((place, used[place]) for place in places))
        used.update(places)
    return Curriculum(tuple(phases), tuple(tuples), tuple(batches), seed, false_negative_above)


def hold_out(tuples: Sequence[GradedTuple], seed: int) -> tuple[list[GradedTuple], list[GradedTuple]]:
    """Part some tuples from those that are trained on: a tenth of them, at most `MOST_HELD`, at least one."""
    order = list(tuples)
    random.Random(f"{seed} held").shuffle(order)
    count = max(1, min(MOST_HELD, len(order) // 10))
    held = {id(graded) for graded in order[:count]}
    return [t for t in tuples if id(t) not in held], [t for t in tuples if id(t) in held]


def _groups(
    tuples: Sequence[GradedTuple], batch_size: int, by_task: bool
) -> list[tuple[str, list[tuple[int, GradedTuple]]]]:
    """The tuples with their places, by task; those of tasks too small to fill a batch are together under ""."""
    groups: dict[str, list[tuple[int, GradedTuple]]] = {"": []}
    for place, graded in enumerate(tuples):
        groups.setdefault((by_task and graded.task) or "", []).append((place, graded))
    for name in list(groups):
        if name and _distinct([graded for _, graded in groups[name]]) < 2 * batch_size:
            groups[""] += groups.pop(name)
    if groups[""] and _distinct([graded for _, graded in groups[""]]) < batch_size:  # too few for a batch of their own
        rest = groups.pop("")
        groups[max(groups, key=lambda name: len(groups[name]))] += rest
    return [(name, group) for name, group in groups.items() if group]


def _distinct(tuples: Sequence[GradedTuple]) -> int:
    return min(len({t.query for t in tuples}), len({t.positive for t in tuples}))


def _check_size(tuples: Sequence[GradedTuple], batch_size: int) -> None:
    if (distinct := _distinct(tuples)) < batch_size:
        raise _too_few(distinct, batch_size)


class _Pool:
    """Tuples that may stand in one batch, without end."""

    def __init__(self, members: Sequence[tuple[int, GradedTuple]], batch_size: int, shuffler: random.Random) -> None:
        self.size, self.batches = len(members), 0
        self._batch_size = batch_size
        self._rows = self._endless(list(members), shuffler)
        self._waiting: list[tuple[int, GradedTuple]] = []

    @staticmethod
    def _endless(order: list[tuple[int, GradedTuple]], shuffler: random.Random) -> Iterator[tuple[int, GradedTuple]]:
        while True:
            shuffler.shuffle(order)
            yield from order

    def batch(self) -> list[int]:
        """The places of the next tuples that can stand together; the others wait for the next batch."""
        self.batches += 1
        batch: list[int] = []
        texts: set[str] = set()
        held_back: list[tuple[int, GradedTuple]] = []
        queue = iter(self._waiting)
        drawn = 0
        while len(batch) < self._batch_size:
            member = next(queue, None)
            if member is None:
                member = next(self._rows)
                drawn += 1
                if drawn > 2 * self.size:  # every tuple has come by
                    raise _too_few(len(batch), self._batch_size)
            place, graded = member
            if graded.query in texts or graded.positive in texts:
                held_back.append(member)
                continue
            batch.append(place)
            texts |= {graded.query, graded.positive}
        self._waiting = [*held_back, *queue]
        return batch


def _too_few(found: int, wanted: int) -> DataError:
    return DataError(
        "training",
        f"found {found} tuples with different queries and positives; a batch needs {wanted}. "
        "Give more pairs, or lower training.batch_size.",
    )
