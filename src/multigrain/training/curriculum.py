"""The curriculum: which tuples the model meets when, and with which of their negatives.

The order of the tuples is a pure function of the tuples, the batch size and the seed, and the same whatever the
schedule is; the phase of a step decides which grades of a tuple's negatives it brings. So two schedules differ in
nothing but the negatives, and a training can be resumed at any step. No torch is needed to plan it.
"""

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative, folded

MOST_HELD = 256
"""Queries that are held out."""
WAITING = 8
"""Of the tuples that wait for a batch that they can stand in, so many batches of them are looked at."""
TRIES = 20
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


@dataclass(frozen=True, eq=False)
class Curriculum:
    """The phases, and the tuples of every step: S steps of B tuples."""

    phases: tuple[PhaseSection, ...]
    tuples: Sequence[GradedTuple]
    places: NDArray[np.int32]
    """(S, B) which of the tuples."""
    turns: NDArray[np.int32]
    """(S, B) how often that tuple came before."""
    seed: int
    false_negative_above: float | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return len(self.places)

    @property
    def batch_size(self) -> int:
        """Tuples of one step."""
        return int(self.places.shape[1])

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The step after the last of each phase, as the schedule has it."""
        return tuple(accumulate(phase.steps or 0 for phase in self.phases))

    def phase_at(self, step: int) -> int:
        """The place of the phase that step `step` (from 0) belongs to, as the schedule has it."""
        return bisect_right(self.bounds, step)

    def ids_at(self, step: int) -> list[str]:
        """The ids of the tuples of a step."""
        return [self.tuples[place].id for place in self.places[step]]

    def row(self, step: int, position: int, phase: int) -> Row:
        """The example at a position of a step, as the phase wants it."""
        section = self.phases[phase]
        graded, turn = self.tuples[self.places[step, position]], int(self.turns[step, position])
        progress = (step - self.bounds[phase] + (section.steps or 1) + 0.5) / (section.steps or 1)
        wanted = list(zip(section.grades, section.weights_at(min(1.0, max(0.0, progress))), strict=True))
        if section.one_at_a_time:
            order = self._orders[phase]
            wanted = [wanted[order[(step - self.bounds[phase]) % len(order)]]]
        documents = [Document(graded.positive, POSITIVE, _known(graded.score), 1.0)]
        for index, (grade, weight) in enumerate(wanted):
            same = sum(other == grade for other, _ in wanted[:index])
            documents.append(self._document(graded, grade, turn, same, weight))
        return Row(graded.id, graded.query, tuple(documents))

    def _document(self, graded: GradedTuple, grade: int, turn: int, same: int, weight: float) -> Document:
        """One of the negatives of this grade, each in its turn; the positive, without weight, where there is no more.

        Args:
            graded: the tuple.
            grade: which is wanted.
            turn: how often the tuple came before.
            same: how many of this grade the row has already.
            weight: of the phase.
        """
        negatives = [negative for negative in graded.negatives if negative.grade == grade]
        if same >= len(negatives):
            return Document(graded.positive, 0, _known(None), 0.0)
        negative = negatives[(turn + same) % len(negatives)]
        return Document(negative.text, grade, negative.score, 0.0 if self._is_false(graded, negative) else weight)

    def _is_false(self, graded: GradedTuple, negative: Negative) -> bool:
        limit = self.false_negative_above
        if negative.text in self._answers.get(graded.query, ()):
            return True
        return limit is not None and negative.score >= limit * (1.0 if graded.score is None else graded.score)

    @cached_property
    def _answers(self) -> dict[str, frozenset[str]]:
        return answers_of(self.tuples)

    @cached_property
    def _orders(self) -> dict[int, list[int]]:
        """For each phase with one grade at a time, which of its grades comes when: each as often, in random order."""
        orders = {}
        for index, section in enumerate(self.phases):
            if section.one_at_a_time:
                steps = section.steps or 1
                orders[index] = [step % len(section.grades) for step in range(steps)]
                random.Random(f"{self.seed} {index}").shuffle(orders[index])
        return orders


def _known(score: float | None) -> float:
    return math.nan if score is None else score


def answers_of(tuples: Sequence[GradedTuple]) -> dict[str, frozenset[str]]:
    """All positives of each query that has several."""
    answers: dict[str, set[str]] = {}
    for graded in tuples:
        answers.setdefault(graded.query, set()).add(graded.positive)
    return {query: frozenset(texts) for query, texts in answers.items() if len(texts) > 1}


def plan(
    tuples: Sequence[GradedTuple],
    phases: Sequence[PhaseSection],
    batch_size: int,
    seed: int = 7,
    *,
    by_task: bool = True,
    false_negative_above: float | None = None,
    first: Collection[str] = (),
) -> Curriculum:
    """Draw up every batch of the training.

    The tuples are gone through in a shuffled order, over all phases, and shuffled anew each time they are used up. No
    batch holds a query or a positive twice, nor a text that another tuple gives as an answer to one of its queries:
    that would make a false in-batch negative.

    Args:
        tuples: what there is to train on.
        phases: the schedule, with the steps of each phase (`multigrain.schedules.phases_of`).
        batch_size: tuples of one step.
        seed: of the order.
        by_task: whether a batch holds tuples of one task. Tasks too small to fill one share batches.
        false_negative_above: negatives with at least this share of the positive's score do not count.
        first: ids of tuples that are drawn before all others, where training is too short for all.

    Raises:
        DataError: there are too few different tuples to fill a batch, or a negative is the positive.
    """
    for graded in tuples:
        if folded(graded.positive) in {folded(negative.text) for negative in graded.negatives}:
            raise DataError("training", f"the positive of tuple {graded.id} is one of its negatives too; take it out")
    if (distinct := _distinct(tuples)) < batch_size:
        raise _too_few(distinct, batch_size)
    answers = answers_of(tuples)
    pools = [
        _Pool(tuples, places, batch_size, answers, random.Random(f"{seed} {name}"))
        for name, places in _groups(tuples, batch_size, by_task)
    ]
    for pool in pools:
        pool.begin_with(first)
    used: Counter[int] = Counter()
    steps = sum(phase.steps or 0 for phase in phases)
    places, turns = (np.empty((steps, batch_size), np.int32) for _ in range(2))
    for step in range(steps):
        # The pool that is furthest behind its share comes next.
        pool = max(pools, key=lambda pool: (step + 1) * pool.size / len(tuples) - pool.batches)
        places[step] = drawn = pool.batch()
        turns[step] = [used[place] for place in drawn]
        used.update(drawn)
    return Curriculum(tuple(phases), tuples, places, turns, seed, false_negative_above)


def hold_out(tuples: Sequence[GradedTuple], seed: int) -> tuple[list[GradedTuple], list[GradedTuple]]:
    """Part the tuples of some queries from those that are trained on: of a tenth, at most `MOST_HELD`, at least one."""
    queries = list(dict.fromkeys(graded.query for graded in tuples))
    random.Random(f"{seed} held").shuffle(queries)
    held = set(queries[: max(1, min(MOST_HELD, len(queries) // 10))])
    return [t for t in tuples if t.query not in held], [t for t in tuples if t.query in held]


def _groups(tuples: Sequence[GradedTuple], batch_size: int, by_task: bool) -> list[tuple[str, list[int]]]:
    """The places of the tuples by task; those of tasks too small to fill a batch are together under ""."""
    groups: dict[str, list[int]] = {"": []}
    for place, graded in enumerate(tuples):
        groups.setdefault((by_task and graded.task) or "", []).append(place)
    for name in list(groups):
        if name and _distinct([tuples[place] for place in groups[name]]) < 2 * batch_size:
            groups[""] += groups.pop(name)
    if groups[""] and _distinct([tuples[place] for place in groups[""]]) < batch_size:  # too few for one of their own
        rest = groups.pop("")
        groups[max(groups, key=lambda name: len(groups[name]))] += rest
    return [(name, group) for name, group in groups.items() if group]


def _distinct(tuples: Sequence[GradedTuple]) -> int:
    return min(len({t.query for t in tuples}), len({t.positive for t in tuples}))


class _Pool:
    """Tuples that may stand in one batch, without end."""

    def __init__(
        self,
        tuples: Sequence[GradedTuple],
        places: Sequence[int],
        batch_size: int,
        answers: dict[str, frozenset[str]],
        shuffler: random.Random,
    ) -> None:
        self.size, self.batches = len(places), 0
        self._tuples, self._batch_size, self._answers = tuples, batch_size, answers
        self._order, self._shuffler = list(places), shuffler
        self._next = len(places)
        self._waiting: dict[int, None] = {}

    def begin_with(self, first: Collection[str]) -> None:
        """Shuffle the tuples for the first time, those with these ids before the others."""
        self._shuffler.shuffle(self._order)
        self._order.sort(key=lambda place: self._tuples[place].id not in first)
        self._next = 0

    def batch(self) -> list[int]:
        """The places of the next tuples that can stand together; the others wait for a later batch."""
        self.batches += 1
        batch = _Batch(self._tuples, self._answers)
        for place in list(islice(self._waiting, WAITING * self._batch_size)):
            if len(batch.places) < self._batch_size and batch.takes(place):
                del self._waiting[place]
        drawn = 0
        while len(batch.places) < self._batch_size and drawn <= 2 * self.size:  # so every tuple has come by
            place, drawn = self._draw(), drawn + 1
            if place not in self._waiting and not batch.takes(place):
                self._waiting[place] = None
        return batch.places if len(batch.places) == self._batch_size else self._another_way()

    def _draw(self) -> int:
        if self._next == len(self._order):
            self._shuffler.shuffle(self._order)
            self._next = 0
        self._next += 1
        return self._order[self._next - 1]

    def _another_way(self) -> list[int]:
        """A batch although one that was taken first is in the way of too many others."""
        most: list[int] = []
        for _ in range(TRIES):
            batch = _Batch(self._tuples, self._answers)
            for place in self._shuffler.sample(self._order, self.size):
                if len(batch.places) < self._batch_size:
                    batch.takes(place)
            most = max(most, batch.places, key=len)
            if len(most) == self._batch_size:
                for place in most:
                    self._waiting.pop(place, None)
                return most
        raise _too_few(len(most), self._batch_size)


class _Batch:
    """Tuples that can stand together."""

    def __init__(self, tuples: Sequence[GradedTuple], answers: dict[str, frozenset[str]]) -> None:
        self._tuples, self._answers = tuples, answers
        self.places: list[int] = []
        self._queries: set[str] = set()
        self._documents: set[str] = set()
        self._positives: set[str] = set()
        self._all_answers: set[str] = set()

    def takes(self, place: int) -> bool:
        """Add a tuple, if it can stand with the others."""
        graded = self._tuples[place]
        if graded.query in self._queries or graded.positive in self._positives:
            return False
        others = self._answers.get(graded.query, frozenset()) - {graded.positive}
        documents = {graded.positive, *(negative.text for negative in graded.negatives)}
        if not others.isdisjoint(self._documents) or not documents.isdisjoint(self._all_answers):
            return False
        self.places.append(place)
        self._queries.add(graded.query)
        self._positives.add(graded.positive)
        self._documents |= documents
        self._all_answers |= others
        return True


def _too_few(found: int, wanted: int) -> DataError:
    return DataError(
        "training",
        f"found {found} tuples with different queries and positives that can stand in a batch; it needs {wanted}. "
        "Give more pairs, or lower training.batch_size. A tuple is a pair with negatives: mined, written or given.",
    )
