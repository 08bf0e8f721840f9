"""The curriculum: which tuples the model meets when, and with which of their negatives.

The order of the tuples is a pure function of the tuples, the batch size and the seed, and the same whatever the
schedule is; the phase of a step decides which grades of a tuple's negatives it brings. So two schedules differ in
nothing but the negatives, and a training can be resumed at any step. No torch is needed to plan it.
"""

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.progress import counted
from multigrain.records import GradedTuple, Negative, folded, identity
from multigrain.training.known import Known, known_of, texts_of

MOST_HELD = 256
"""Queries that are held out."""
WAITING = 8
"""For tuples that can stand in a batch, so many times its size are looked at, both among those that wait and others."""
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
    known: Known
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
        answers = self.known.answers  # few queries have several
        if answers and identity(negative.text) in answers.get(identity(graded.query), ()):
            return True
        return limit is not None and negative.score >= limit * (1.0 if graded.score is None else graded.score)

    def false_at(self, step: int, phase: int) -> list[list[list[int]]]:
        """(B, 1 + k, W) for each query of a step and each column, the rows whose document is no negative of it.

        Such a document is known to answer the query, is the query itself, or is of the tuple's group. Where there are
        fewer than W, -1 stands for none.
        """
        tuples = [self.tuples[place] for place in self.places[step]]
        rows = [self.row(step, position, phase).documents for position in range(self.batch_size)]
        at = self._places_of(rows)
        cells: list[list[list[int]]] = [[[] for _ in row] for row in rows]
        for position, graded in enumerate(tuples):
            query = identity(graded.query)
            texts = {query, identity(graded.positive)} | self.known.answers.get(query, frozenset())
            names: list[bytes | str | None] = [*(at.keys() & texts), graded.group]
            for row, column in sorted({place for name in names for place in at.get(name, ())} - {(position, 0)}):
                cells[position][column].append(row)
        width = max(len(cell) for row in cells for cell in row)
        return [[cell + [-1] * (width - len(cell)) for cell in row] for row in cells]

    def _places_of(self, rows: Sequence[Sequence[Document]]) -> dict[bytes | str | None, list[tuple[int, int]]]:
        """Where (row, column) the documents are that count, by their identity and by their groups."""
        at: dict[bytes | str | None, list[tuple[int, int]]] = {}
        for row, documents in enumerate(rows):
            for column, document in enumerate(documents):
                text = identity(document.text)
                names: list[bytes | str] = [text, *self.known.groups.get(text, ())]
                for name in names if document.weight else ():
                    at.setdefault(name, []).append((row, column))
        return at

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


def plan(
    tuples: Sequence[GradedTuple],
    phases: Sequence[PhaseSection],
    batch_size: int,
    seed: int = 7,
    *,
    by_task: bool = True,
    known: Known | None = None,
    first: Collection[str] = (),
) -> Curriculum:
    """Draw up every batch of the training.

    The tuples are gone through in a shuffled order, over all phases, and shuffled anew each time they are used up. As
    far as there are others, a batch holds no query or positive twice, no known answer to one of its queries beside
    that query's own, and of a group its share alone. Where it does, those do not count (`Curriculum.false_at`).

    Args:
        tuples: what there is to train on.
        phases: the schedule, with the steps of each phase (`multigrain.training.schedules.phases_of`).
        batch_size: tuples of one step, if there are so many.
        seed: of the order.
        by_task: whether a batch holds tuples of one task. Tasks too small to fill one share batches.
        known: what else is no negative of a query than the tuples say.
        first: ids of tuples that are drawn before all others, where training is too short for all.

    Raises:
        DataError: no two tuples can stand in a batch, or a negative is the positive.
    """
    for graded in tuples:
        if folded(graded.positive) in {folded(negative.text) for negative in graded.negatives}:
            raise DataError("training", f"the positive of tuple {graded.id} is one of its negatives too; take it out")
    batch_size = min(batch_size, len(tuples))
    if (distinct := min(_distinct(tuples), len({t.group or t.id for t in tuples}))) < 2 or batch_size < 2:
        raise _too_few(min(distinct, batch_size))
    known = known or known_of(tuples)
    pools = [
        _Pool(tuples, places, batch_size, known.answers, random.Random(f"{seed} {name}"))
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
    return Curriculum(tuple(phases), tuples, places, turns, seed, known)


def hold_out(tuples: Sequence[GradedTuple], seed: int) -> tuple[list[GradedTuple], list[GradedTuple]]:
    """Part the tuples of some queries from those that are trained on: of a tenth, at most `MOST_HELD`, at least one."""
    query_of = [identity(graded.query) for graded in tuples]
    queries = list(dict.fromkeys(query_of))
    random.Random(f"{seed} held").shuffle(queries)
    held = set(queries[: max(1, min(MOST_HELD, len(queries) // 10))])
    parts: tuple[list[GradedTuple], list[GradedTuple]] = [], []
    for query, graded in zip(query_of, tuples, strict=True):
        parts[query in held].append(graded)
    return parts


def _groups(tuples: Sequence[GradedTuple], batch_size: int, by_task: bool) -> list[tuple[str, list[int]]]:
    """The places of the tuples by task; those of tasks too small to fill a batch are together under ""."""
    groups: dict[str, list[int]] = {"": []}
    for place, graded in enumerate(tuples):
        groups.setdefault((by_task and graded.task) or "", []).append(place)
    for name in list(groups):
        if name and _distinct([tuples[place] for place in groups[name]]) < 2 * batch_size:
            groups[""] += groups.pop(name)
    if len(groups) > 1 and _distinct([tuples[place] for place in groups[""]]) < batch_size:
        rest = groups.pop("")  # too few for a batch of their own
        groups[max(groups, key=lambda name: len(groups[name]))] += rest
    return [(name, group) for name, group in groups.items() if group]


def _distinct(tuples: Sequence[GradedTuple]) -> int:
    return min(len({identity(t.query) for t in tuples}), len({identity(t.positive) for t in tuples}))


class _Pool:
    """Tuples that may stand in one batch, without end."""

    def __init__(
        self,
        tuples: Sequence[GradedTuple],
        places: Sequence[int],
        batch_size: int,
        answers: Mapping[bytes, frozenset[bytes]],
        shuffler: random.Random,
    ) -> None:
        self.size, self.batches = len(places), 0
        self._tuples, self._batch_size, self._answers = tuples, batch_size, answers
        groups = Counter(group for place in places if (group := tuples[place].group))
        self._shares = {group: math.ceil(batch_size * count / len(places)) for group, count in groups.items()}
        self._order, self._shuffler = list(places), shuffler
        self._next = len(places)
        self._waiting: dict[int, _Keys] = {}

    def begin_with(self, first: Collection[str]) -> None:
        """Shuffle the tuples for the first time, those with these ids before the others."""
        self._shuffler.shuffle(self._order)
        self._order.sort(key=lambda place: self._tuples[place].id not in first)
        self._next = 0

    def batch(self) -> list[int]:
        """The places of the next tuples that can stand together; the others wait for a later batch."""
        self.batches += 1
        batch = _NextBatch(self._answers, self._shares)
        most = min(WAITING * self._batch_size, 2 * self.size)  # then every tuple has come by
        for place, keys in list(islice(self._waiting.items(), most)):
            if len(batch.places) < self._batch_size and batch.takes(place, keys):
                del self._waiting[place]
        drawn = 0
        while len(batch.places) < self._batch_size and drawn < most:
            place, drawn = self._draw(), drawn + 1
            if place not in self._waiting and not batch.takes(place, keys := _keys_of(self._tuples[place])):
                self._waiting[place] = keys
        return self._filled(batch.places)

    def _filled(self, batch: list[int]) -> list[int]:
        """The batch with such as cannot stand beside all others, if it is not full."""
        missing = self._batch_size - len(batch)
        for place in list(islice((place for place in self._waiting if place not in batch), missing)):
            del self._waiting[place]
            batch.append(place)
        while len(batch) < self._batch_size:
            if (place := self._draw()) not in batch:
                batch.append(place)
        return batch

    def _draw(self) -> int:
        if self._next == len(self._order):
            self._shuffler.shuffle(self._order)
            self._next = 0
        self._next += 1
        return self._order[self._next - 1]


@dataclass(frozen=True)
class _Keys:
    """By what a tuple is compared with others."""

    query: bytes
    positive: bytes
    documents: frozenset[bytes]
    group: str | None


def _keys_of(graded: GradedTuple) -> _Keys:
    documents = [identity(text) for text in texts_of(graded)]
    return _Keys(identity(graded.query), documents[0], frozenset(documents), graded.group)


class _NextBatch:
    """Tuples that can stand together.

    Args:
        answers: all positives of each query that has several.
        shares: how many of each group there may be.
    """

    def __init__(self, answers: Mapping[bytes, frozenset[bytes]], shares: Mapping[str, int]) -> None:
        self._answers, self._shares = answers, shares
        self.places: list[int] = []
        self._queries: set[bytes] = set()
        self._documents: set[bytes] = set()
        self._positives: set[bytes] = set()
        self._all_answers: set[bytes] = set()
        self._groups: Counter[str] = Counter()

    def takes(self, place: int, keys: _Keys) -> bool:
        """Add a tuple, if it can stand with the others."""
        if keys.query in self._queries or keys.positive in self._positives:
            return False
        if keys.group and self._groups[keys.group] >= self._shares[keys.group]:
            return False
        others = self._answers.get(keys.query, frozenset()) - {keys.positive}
        if not others.isdisjoint(self._documents) or not keys.documents.isdisjoint(self._all_answers):
            return False
        self.places.append(place)
        self._queries.add(keys.query)
        self._positives.add(keys.positive)
        self._documents |= keys.documents
        self._all_answers |= others
        if keys.group:
            self._groups[keys.group] += 1
        return True


def _too_few(found: int) -> DataError:
    return DataError(
        "training",
        f"found {counted(found, 'tuples')} that can stand in one batch (with different queries, positives and "
        "groups); a batch needs 2. Give more pairs, or see in grading/report.json why candidates were dropped: a "
        "tuple is a pair with negatives that grading kept.",
    )
