"""Batch planning: group tuples into batches without false negatives.

A `Dealer` fills the batches of one task or source, or of several small ones that share batches. It has a `TuplePool`
for each, which shuffles the tuples and deals them out. `NextBatch` decides whether one more tuple can join a batch. A
tuple that cannot is deferred to a later batch. If no other tuples are left, conflicting tuples share a batch, and the
loss leaves the false negatives out (`Curriculum.false_at`).
"""

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from multigrain.records import GradedTuple, Pair, identity
from multigrain.terminal import say
from multigrain.training.in_batch_false_negatives import texts_of
from multigrain.training.neighbours import Neighbours

WAITING = 8
"""How many batches' worth of tuples to consider when filling a batch: of deferred tuples, then of newly drawn ones."""
ROUNDING = 1e-9
"""Larger than the rounding error of a number of tuples, smaller than any real part of one."""


Examples = Sequence[GradedTuple | Pair]
"""Tuples, or the pairs that they will be made from."""


def tasks_of(tuples: Examples, batch_size: int, by_task: bool) -> list[tuple[str, list[int]]]:
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
    parts: tuple["Group", ...] = ()
    """The tuples of each source, if several share batches."""

    def among(self, places: list[int], name: str) -> "Group":
        """Return a part of these tuples; weights are in proportion to the number of tuples of each source."""
        if not self.parts:
            return Group(name, places, self.weight * len(places) / len(self.places))
        wanted = set(places)
        both = ((part, [place for place in part.places if place in wanted]) for part in self.parts)
        return _joined([part.among(own, part.name) for part, own in both if own], name)

    def slots(self, batch_size: int) -> list[tuple["Group", float]]:
        """Return the mean number of tuples of each part in a batch, in proportion to the weights.

        No tuple is twice in a batch, so a part with too few tuples has all of them in every batch, and the others fill
        the rest.
        """
        free, rest, found = list(self.parts or [self]), float(batch_size), dict[str, float]()
        while free:
            each = rest / sum(part.weight for part in free)
            few = [part for part in free if len(part.places) < each * part.weight]
            found |= {part.name: float(len(part.places)) for part in few}
            rest -= sum(len(part.places) for part in few)
            free = [part for part in free if part.name not in found]
            if not few:
                found |= {part.name: each * part.weight for part in free}
                break
        return [(part, found[part.name]) for part in self.parts or [self]]


def shares_of_training(
    pairs: Sequence[Pair], batch_size: int, by_task: bool, weights: Mapping[str, float]
) -> dict[str, float]:
    """Return the share of the training that each source will have, for `groups_of` these pairs."""
    groups = groups_of(pairs, batch_size, by_task, weights)
    total = sum(group.weight for group in groups)
    shares = dict.fromkeys(weights, 0.0)
    for group in groups:
        for part, slots in group.slots(batch_size):
            source = pairs[part.places[0]].source or ""
            shares[source] += group.weight / total * slots / batch_size
    return shares


def groups_of(
    tuples: Examples, batch_size: int, by_task: bool, weights: Mapping[str, float] | None = None
) -> list[Group]:
    """Group the indices of the tuples by source and task.

    Sources with too few tuples for a batch share batches, or join the largest source.

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
            groups.append(source.among([source.places[place] for place in own], f"{source.name} {task}"))
    return groups


def tell_shared(groups: Iterable[Group], batch_size: int) -> None:
    """Report which sources share batches."""
    for names in dict.fromkeys(" + ".join(part.name for part in group.parts) for group in groups if group.parts):
        say(f"  sources with too few tuples for a batch of {batch_size} share batches: {names}")


def _sources_of(tuples: Examples, batch_size: int, weights: Mapping[str, float]) -> list[Group]:
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
    if whole and distinct_pairs([tuples[place] for group in small for place in group.places]) < batch_size:
        largest = max(whole, key=lambda group: len(group.places))
        whole.remove(largest)
        small = [largest, *small]
    return [*whole, _joined(small, " + ".join(group.name for group in small))]


def _joined(groups: Sequence[Group], name: str) -> Group:
    """Return the tuples of several sources as one group; one source stays as it is, under this name."""
    places = sorted(place for group in groups for place in group.places)
    return Group(name, places, sum(group.weight for group in groups), tuple(groups) if len(groups) > 1 else ())


def distinct_pairs(tuples: Examples) -> int:
    """Return the largest possible batch: the number of distinct queries or of distinct positives, if that is lower."""
    queries = {identity(graded.query) for graded in tuples}
    positives = {identity(graded.positive) for graded in tuples}
    return min(len(queries), len(positives))


class Dealer:
    """An endless supply of batches from the tuples of a group, and from each of its parts by their `slots`.

    Args:
        tuples: all training tuples.
        group: the indices of the tuples, and their share of the steps.
        batch_size: number of tuples in a batch.
        answers: all known positives of each query that has several, by `identity`.
        seed: seed of the order of the tuples.
        neighbours: groups similar tuples; if None, tuples come one by one.
    """

    def __init__(
        self,
        tuples: Sequence[GradedTuple],
        group: Group,
        batch_size: int,
        *,
        answers: Mapping[bytes, frozenset[bytes]],
        seed: int,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.weight, self.batches = group.weight, 0
        self._answers, self._batch_size, self._dealt = answers, batch_size, Counter[int]()
        self._pools: list[TuplePool] = []
        self._slots: list[float] = []
        for part, slots in group.slots(batch_size):
            shuffler = random.Random(f"{seed} {part.name}")
            self._pools.append(TuplePool(tuples, part.places, math.ceil(slots), shuffler, neighbours))
            self._slots.append(slots)
        self._shares = {name: most for pool in self._pools for name, most in pool.shares.items()}

    def begin_with(self, first: Collection[str]) -> None:
        """Shuffle for the first time, and put the tuples with these ids first."""
        for pool in self._pools:
            pool.begin_with(first)

    def batch(self) -> list[int]:
        """Return the indices of the next tuples without conflicts; the others are deferred to a later batch."""
        self.batches += 1
        batch = NextBatch(self._answers, self._shares)
        for pool, count in zip(self._pools, self._counts(), strict=True):
            pool.add_to(batch, count)
        return batch.places

    def _counts(self) -> list[int]:
        """Return how many tuples of each pool the next batch has: those that are due, at most all."""
        due = [slots * self.batches - self._dealt[place] for place, slots in enumerate(self._slots)]
        counts = [min(math.floor(each + ROUNDING), pool.size) for each, pool in zip(due, self._pools, strict=True)]
        while sum(counts) < self._batch_size:
            free = [place for place, pool in enumerate(self._pools) if counts[place] < pool.size]
            counts[max(free, key=lambda place: due[place] - counts[place])] += 1
        self._dealt.update(dict(enumerate(counts)))
        return counts


class TuplePool:
    """An endless supply of the tuples of one task or source.

    Args:
        tuples: all training tuples.
        places: the indices of the tuples in this pool.
        most: maximum number of them in a batch.
        shuffler: draws the order, again each time the tuples are used up.
        neighbours: groups similar tuples; if None, tuples come one by one.
    """

    def __init__(
        self,
        tuples: Sequence[GradedTuple],
        places: Sequence[int],
        most: int,
        shuffler: random.Random,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._tuples, self.size = tuples, len(places)
        self._looked_at = min(WAITING * most, 2 * self.size)  # twice all tuples covers every one
        counts = Counter(tuples[place].group for place in places)
        self.shares = {name: math.ceil(most * count / len(places)) for name, count in counts.items() if name}
        """The maximum number of tuples of each group in a batch."""
        self._order, self._shuffler, self._neighbours = list(places), shuffler, neighbours
        self._next = len(places)
        self._waiting: dict[int, TupleKeys] = {}

    def begin_with(self, first: Collection[str]) -> None:
        """Shuffle for the first time, and put the tuples with these ids first."""
        self._shuffle()
        self._order.sort(key=lambda place: self._tuples[place].id not in first)

    def add_to(self, batch: "NextBatch", count: int) -> None:
        """Add the next tuples to a batch; those in conflict with it are deferred to a later batch."""
        wanted = len(batch.places) + count
        for place, keys in list(islice(self._waiting.items(), self._looked_at)):
            if len(batch.places) < wanted and batch.takes(place, keys):
                del self._waiting[place]
        drawn = 0
        while len(batch.places) < wanted and drawn < self._looked_at:
            place = self._draw()
            drawn += 1
            if place in self._waiting:
                continue
            keys = keys_of(self._tuples[place])
            if not batch.takes(place, keys):
                self._waiting[place] = keys
        self._fill(batch.places, wanted)

    def _fill(self, batch: list[int], wanted: int) -> None:
        """Fill an incomplete batch with conflicting tuples."""
        unused = (place for place in self._waiting if place not in batch)
        for place in list(islice(unused, wanted - len(batch))):
            del self._waiting[place]
            batch.append(place)
        while len(batch) < wanted:
            if (place := self._draw()) not in batch:
                batch.append(place)

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
