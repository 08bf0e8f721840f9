"""Batch planning: group tuples into batches without false negatives.

A `TuplePool` shuffles the tuples of one task and deals them out. `NextBatch` decides whether one more tuple can join a
batch. A tuple that cannot is deferred to a later batch. If no other tuples are left, conflicting tuples share a batch,
and the loss leaves the false negatives out (`Curriculum.false_at`).
"""

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from multigrain.records import GradedTuple, identity
from multigrain.terminal import say
from multigrain.training.in_batch_false_negatives import texts_of
from multigrain.training.neighbours import Neighbours

WAITING = 8
"""How many batches' worth of tuples to consider when filling a batch: of deferred tuples, then of newly drawn ones."""


def tasks_of(tuples: Sequence[GradedTuple], batch_size: int, by_task: bool) -> list[tuple[str, list[int]]]:
    """Group the indices of the tuples by task; tasks with too few tuples share the name ""."""
    groups: dict[str, list[int]] = {"": []}
    for place, graded in enumerate(tuples):
        groups.setdefault((by_task and graded.task) or "", []).append(place)
    for name in list(groups):
        if name and distinct_pairs([tuples[place] for place in groups[name]]) < 2 * batch_size:
            groups[""] += groups.pop(name)
    if len(groups) > 1 and distinct_pairs([tuples[place] for place in groups[""]]) < batch_size:
        rest = groups.pop("")  # too few for their own batch
        groups[max(groups, key=lambda name: len(groups[name]))] += rest
    return [(name, group) for name, group in groups.items() if group]


@dataclass(frozen=True)
class Group:
    """Tuples that share batches, and their share of the steps, relative to the other groups."""

    name: str
    places: list[int]
    weight: float


def groups_of(
    tuples: Sequence[GradedTuple], batch_size: int, by_task: bool, weights: Mapping[str, float] | None = None
) -> list[Group]:
    """Group the indices of the tuples by source and task.

    Sources with too few tuples for a batch share batches, or join the largest source; a message says so.

    Args:
        tuples: the training tuples.
        batch_size: number of tuples in a batch.
        by_task: whether tasks have batches of their own.
        weights: share of the steps of each source; sources of weight 0 are left out. If None, there is one source, and
            each task has as many steps as it has tuples.
    """
    if weights is None:
        return [Group(name, places, len(places)) for name, places in tasks_of(tuples, batch_size, by_task)]
    groups: list[Group] = []
    for source in _sources_of(tuples, batch_size, weights):
        for task, own in tasks_of([tuples[place] for place in source.places], batch_size, by_task):
            places = [source.places[place] for place in own]
            groups.append(Group(f"{source.name} {task}", places, source.weight * len(own) / len(source.places)))
    return groups


def _sources_of(tuples: Sequence[GradedTuple], batch_size: int, weights: Mapping[str, float]) -> list[Group]:
    """Return the tuples of each source, with sources that cannot fill a batch joined to others."""
    places: dict[str, list[int]] = {name: [] for name, weight in weights.items() if weight}
    for place, graded in enumerate(tuples):
        if graded.source in places:
            places[graded.source].append(place)
    found = [Group(name, own, weights[name]) for name, own in places.items() if own]
    whole = [group for group in found if distinct_pairs([tuples[place] for place in group.places]) >= batch_size]
    small = [group for group in found if group not in whole]
    if not small:
        return whole
    rest = _joined(small)
    if whole and distinct_pairs([tuples[place] for place in rest.places]) < batch_size:
        largest = max(whole, key=lambda group: len(group.places))
        whole.remove(largest)
        rest = _joined([largest, rest])
    if "+" in rest.name:
        say(f"  sources with too few tuples for a batch of {batch_size} share batches: {rest.name}")
    return [*whole, rest]


def _joined(groups: Sequence[Group]) -> Group:
    places = sorted(place for group in groups for place in group.places)
    return Group(" + ".join(group.name for group in groups), places, sum(group.weight for group in groups))


def distinct_pairs(tuples: Sequence[GradedTuple]) -> int:
    """Return the largest possible batch: the number of distinct queries or of distinct positives, if that is lower."""
    queries = {identity(graded.query) for graded in tuples}
    positives = {identity(graded.positive) for graded in tuples}
    return min(len(queries), len(positives))


class TuplePool:
    """An endless supply of batches from the tuples of one task.

    Args:
        tuples: all training tuples.
        group: the indices of the tuples in this pool, and its share of the steps.
        batch_size: number of tuples in a batch.
        answers: all known positives of each query that has several, by `identity`.
        shuffler: draws the order, again each time the tuples are used up.
        neighbours: groups similar tuples; if None, tuples come one by one.
    """

    def __init__(
        self,
        tuples: Sequence[GradedTuple],
        group: Group,
        batch_size: int,
        *,
        answers: Mapping[bytes, frozenset[bytes]],
        shuffler: random.Random,
        neighbours: Neighbours | None = None,
    ) -> None:
        places = group.places
        self.size, self.weight, self.batches = len(places), group.weight, 0
        self._tuples, self._batch_size, self._answers = tuples, batch_size, answers
        counts = Counter(tuples[place].group for place in places)
        self._shares: dict[str, int] = {}
        for name, count in counts.items():
            if name:
                self._shares[name] = math.ceil(batch_size * count / len(places))
        self._order, self._shuffler, self._neighbours = list(places), shuffler, neighbours
        self._next = len(places)
        self._waiting: dict[int, TupleKeys] = {}

    def begin_with(self, first: Collection[str]) -> None:
        """Shuffle for the first time, and put the tuples with these ids first."""
        self._shuffle()
        self._order.sort(key=lambda place: self._tuples[place].id not in first)

    def batch(self) -> list[int]:
        """Return the indices of the next tuples without conflicts; the others are deferred to a later batch."""
        self.batches += 1
        batch = NextBatch(self._answers, self._shares)
        most = min(WAITING * self._batch_size, 2 * self.size)  # 2 * size covers every tuple
        for place, keys in list(islice(self._waiting.items(), most)):
            if len(batch.places) < self._batch_size and batch.takes(place, keys):
                del self._waiting[place]
        drawn = 0
        while len(batch.places) < self._batch_size and drawn < most:
            place = self._draw()
            drawn += 1
            if place in self._waiting:
                continue
            keys = keys_of(self._tuples[place])
            if not batch.takes(place, keys):
                self._waiting[place] = keys
        return self._filled(batch.places)

    def _filled(self, batch: list[int]) -> list[int]:
        """Fill an incomplete batch with conflicting tuples."""
        missing = self._batch_size - len(batch)
        unused = (place for place in self._waiting if place not in batch)
        for place in list(islice(unused, missing)):
            del self._waiting[place]
            batch.append(place)
        while len(batch) < self._batch_size:
            if (place := self._draw()) not in batch:
                batch.append(place)
        return batch

    def _shuffle(self) -> None:
        self._shuffler.shuffle(self._order)
        if self._neighbours:
            self._order = self._neighbours.grouped(self._order, self._shuffler)
        self._next = 0

    def _draw(self) -> int:
        if self._next == len(self._order):
            self._shuffle()
        self._next += 1
        return self._order[self._next - 1]


@dataclass(frozen=True)
class TupleKeys:
    """The texts (by `identity`) and the group of a tuple, used to find conflicts with other tuples."""

    query: bytes
    positive: bytes
    documents: frozenset[bytes]
    group: str | None


def keys_of(graded: GradedTuple) -> TupleKeys:
    """Return the keys of a tuple."""
    documents = [identity(text) for text in texts_of(graded)]
    return TupleKeys(identity(graded.query), documents[0], frozenset(documents), graded.group)


class NextBatch:
    """A batch being filled: no tuple in it has a document that answers another tuple's query.

    Args:
        answers: all positives of each query that has several.
        shares: the maximum number of tuples of each group.
    """

    def __init__(self, answers: Mapping[bytes, frozenset[bytes]], shares: Mapping[str, int]) -> None:
        self._answers, self._shares = answers, shares
        self.places: list[int] = []
        self._queries: set[bytes] = set()
        self._documents: set[bytes] = set()
        self._positives: set[bytes] = set()
        self._all_answers: set[bytes] = set()
        self._groups: Counter[str] = Counter()

    def takes(self, place: int, keys: TupleKeys) -> bool:
        """Add a tuple if it conflicts with none in the batch; return whether it was added."""
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
