"""The curriculum: which tuples each step trains on, and which of their negatives.

The order of the tuples is a pure function of the tuples, the batch size and the seed. It does not depend on the
schedule: the phase of a step only selects the grades of the negatives. So two schedules differ only in their negatives,
and training can resume at any step. Planning needs no torch.
"""

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative, folded, identity
from multigrain.terminal import counted
from multigrain.training.batch_planning import Dealer, distinct_pairs, groups_of, tell_shared
from multigrain.training.guide import Guide, Place
from multigrain.training.in_batch_false_negatives import InBatchFalseNegatives, known_false_negatives
from multigrain.training.neighbours import Neighbours
from multigrain.training.teacher_lists import ScoreScale

MOST_HELD = 256
"""Maximum number of held-out queries."""
POSITIVE = 5
"""The grade of a positive: one above the hardest negative."""


@dataclass(frozen=True)
class Document:
    """A document of a row: its text, grade (0 for a placeholder), judge score, and weight in the loss."""

    text: str
    grade: int
    score: float
    weight: float


@dataclass(frozen=True)
class Row:
    """One training example. Its documents are the positive, then one negative for each grade of the phase."""

    id: str
    query: str
    documents: tuple[Document, ...]
    instruction: str | None = None


@dataclass(frozen=True, eq=False)
class Curriculum:
    """The phases and the tuples of every step: S steps of B tuples."""

    phases: tuple[PhaseSection, ...]
    tuples: Sequence[GradedTuple]
    places: NDArray[np.int32]
    """(S, B): the index in `tuples` of each tuple of each step."""
    turns: NDArray[np.int32]
    """(S, B): how often that tuple occurred in earlier steps."""
    seed: int
    known: InBatchFalseNegatives
    false_negative_above: float | None = None
    guide: Guide | None = None
    teacher: ScoreScale | None = None
    """The scale of the scores, if a teacher gave them."""

    @property
    def steps(self) -> int:
        """Number of optimizer steps in the training."""
        return len(self.places)

    @property
    def batch_size(self) -> int:
        """Number of tuples in a step."""
        return int(self.places.shape[1])

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The step after the last one of each phase, according to the schedule."""
        return tuple(accumulate(phase.steps or 0 for phase in self.phases))

    def phase_at(self, step: int) -> int:
        """Return the index of the phase of a step (from 0), according to the schedule."""
        return bisect_right(self.bounds, step)

    def ids_at(self, step: int) -> list[str]:
        """Return the ids of the tuples of a step."""
        return [self.tuples[place].id for place in self.places[step]]

    def row(self, step: int, position: int, phase: int) -> Row:
        """Return the example at a position of a step, with the negatives that the phase selects."""
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
        return Row(graded.id, graded.query, tuple(documents), graded.instruction)

    def _document(self, graded: GradedTuple, grade: int, turn: int, same: int, weight: float) -> Document:
        """Return a negative of this grade, in rotation; if none is left, the positive with weight 0 as placeholder.

        Args:
            graded: the tuple.
            grade: the grade of the negative.
            turn: how often the tuple occurred before.
            same: how many negatives of this grade the row already has.
            weight: the weight that the phase gives the negative.
        """
        negatives = [negative for negative in graded.negatives if negative.grade == grade]
        if same >= len(negatives):
            return Document(graded.positive, 0, _known(None), 0.0)
        negative = negatives[(turn + same) % len(negatives)]
        return Document(negative.text, grade, negative.score, 0.0 if self._is_false(graded, negative) else weight)

    def _is_false(self, graded: GradedTuple, negative: Negative) -> bool:
        limit = self.false_negative_above
        answers = self.known.answers  # empty for most data
        if answers and identity(negative.text) in answers.get(identity(graded.query), ()):
            return True
        return limit is not None and negative.score >= limit * (1.0 if graded.score is None else graded.score)

    def false_at(self, step: int, phase: int) -> list[list[list[int]]]:
        """Return the false negatives of a step, (B, 1 + k, W): for each query and column, the rows of these documents.

        A document is a false negative if it equals the query, belongs to the tuple's group, is nearer to the query than
        the guide allows, or has a teacher score high enough that it may answer the query. With a teacher, neither guide
        nor scores leave out a query's own documents, because the divergence uses them. A known answer to the query is
        encoded as -2 - row. -1 fills cells with fewer than W false negatives.
        """
        tuples = [self.tuples[place] for place in self.places[step]]
        rows = [self.row(step, position, phase).documents for position in range(self.batch_size)]
        at = self._places_of(rows)
        near = self._too_near(tuples, rows)
        cells: list[list[list[int]]] = [[[] for _ in row] for row in rows]
        for position, graded in enumerate(tuples):
            query = identity(graded.query)
            answers = self.known.answers.get(query, frozenset()) | {identity(graded.positive)}
            known = {place for answer in at.keys() & answers for place in at[answer]}
            false = known.union(at.get(query, ()), at.get(graded.group, ()), self._doubtful(position, graded, near, at))
            for row, column in sorted(false - {(position, 0)}):
                cells[position][column].append(-2 - row if (row, column) in known else row)
        width = max(len(cell) for row in cells for cell in row)
        return [[cell + [-1] * (width - len(cell)) for cell in row] for row in cells]

    def _doubtful(
        self,
        position: int,
        graded: GradedTuple,
        near: Sequence[set[Place]],
        at: Mapping[bytes | str | None, Sequence[Place]],
    ) -> set[Place]:
        """Return the places of documents that may answer a query, according to the guide or the teacher."""
        if self.teacher is None:
            return near[position]
        possible = self.teacher.possible_answers(graded)
        places = near[position].union(*(at.get(text, ()) for text in possible))
        return {place for place in places if place[0] != position}

    def _too_near(self, tuples: Sequence[GradedTuple], rows: Sequence[Sequence[Document]]) -> Sequence[set[Place]]:
        if self.guide is None:
            return [set()] * len(tuples)
        texts = [[document.text for document in documents] for documents in rows]
        queries = [graded.query for graded in tuples]
        return self.guide.nearer(queries, texts, [graded.instruction for graded in tuples])

    def _places_of(self, rows: Sequence[Sequence[Document]]) -> dict[bytes | str | None, list[tuple[int, int]]]:
        """Index the places (row, column) of documents with a positive weight, by identity and by group."""
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
        """Draw the order of grades for each phase that trains one grade at a time: equally often, shuffled."""
        orders = {}
        for index, section in enumerate(self.phases):
            if section.one_at_a_time:
                steps = section.steps or 1
                orders[index] = [step % len(section.grades) for step in range(steps)]
                random.Random(f"{self.seed} {index}").shuffle(orders[index])
        return orders


def _known(score: float | None) -> float:
    return math.nan if score is None else score


def plan(  # noqa: PLR0913 (what is planned, and how)
    tuples: Sequence[GradedTuple],
    phases: Sequence[PhaseSection],
    batch_size: int,
    seed: int = 7,
    *,
    by_task: bool = True,
    known: InBatchFalseNegatives | None = None,
    first: Collection[str] = (),
    neighbours: Neighbours | None = None,
    weights: Mapping[str, float] | None = None,
) -> Curriculum:
    """Plan every batch of the training.

    The tuples come in a shuffled order that continues across phases, and are reshuffled each time they are used up. If
    there are other tuples to choose from, a batch contains no query or positive twice, no known answer to a query other
    than its positive, and no more tuples of a group than its share. Otherwise the loss leaves these documents out
    (`Curriculum.false_at`).

    Args:
        tuples: the training tuples.
        phases: the schedule, with the steps of each phase (`multigrain.training.grade_schedules.phases_of`).
        batch_size: number of tuples in a step; at most all tuples.
        seed: the seed of the order.
        by_task: whether the tuples of a batch have one task. Tasks too small to fill a batch share batches.
        known: false negatives known from other sources than the tuples.
        first: ids of tuples to draw before all others, in case training is too short for all.
        neighbours: groups similar tuples into the same batch; if None, batches are drawn at random.
        weights: share of the steps of each source, in any unit; None if there is one source.

    Raises:
        DataError: no two tuples can share a batch, or a tuple's positive is among its negatives.
    """
    for graded in tuples:
        if folded(graded.positive) in {folded(negative.text) for negative in graded.negatives}:
            raise DataError("training", f"the positive of tuple {graded.id} is also one of its negatives; remove it")
    trained = [graded for graded in tuples if weights is None or weights.get(graded.source or "")]
    batch_size = min(batch_size, len(trained))
    alike = {graded.group or graded.id for graded in trained}  # a group, or a tuple without one
    largest = min(distinct_pairs(trained), len(alike), batch_size)
    if largest < 2:
        raise _too_few(largest)
    known = known or known_false_negatives(tuples)
    groups = groups_of(tuples, batch_size, by_task, weights)
    tell_shared(groups, batch_size)
    dealers: list[Dealer] = []
    for group in groups:
        dealer = Dealer(tuples, group, batch_size, answers=known.answers, seed=seed, neighbours=neighbours)
        dealer.begin_with(first)
        dealers.append(dealer)
    used: Counter[int] = Counter()
    total = sum(dealer.weight for dealer in dealers)
    steps = sum(phase.steps or 0 for phase in phases)
    places = np.empty((steps, batch_size), np.int32)
    turns = np.empty((steps, batch_size), np.int32)
    for step in range(steps):
        # Next is the group that is furthest behind its share.
        dealer = max(dealers, key=lambda dealer: (step + 1) * dealer.weight / total - dealer.batches)
        places[step] = drawn = dealer.batch()
        turns[step] = [used[place] for place in drawn]
        used.update(drawn)
    return Curriculum(tuple(phases), tuples, places, turns, seed, known)


def hold_out(tuples: Sequence[GradedTuple], seed: int) -> tuple[list[GradedTuple], list[GradedTuple]]:
    """Split off the tuples of a tenth of the queries (1 to `MOST_HELD`); return (training tuples, held-out tuples)."""
    query_of = [identity(graded.query) for graded in tuples]
    queries = list(dict.fromkeys(query_of))
    random.Random(f"{seed} held").shuffle(queries)
    held = set(queries[: max(1, min(MOST_HELD, len(queries) // 10))])
    parts: tuple[list[GradedTuple], list[GradedTuple]] = [], []
    for query, graded in zip(query_of, tuples, strict=True):
        parts[query in held].append(graded)
    return parts


def _too_few(found: int) -> DataError:
    return DataError(
        "training",
        f"found {counted(found, 'tuples')} that can share a batch (with different queries, positives and groups); "
        "a batch needs 2. Give more pairs, or see in grading/report.json why candidates were dropped: a tuple is a "
        "pair with negatives that grading kept.",
    )
