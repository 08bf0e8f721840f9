"""Decide which pairs are held out: a share of them, or whole sources."""

import json
import random
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from multigrain.data.key_table import KeyTable, text_key
from multigrain.data.near_queries import NearTo, near_queries, tell_near
from multigrain.data.record_file import Numbers, take
from multigrain.errors import ConfigError, DataError
from multigrain.records import Document, Pair
from multigrain.terminal import say

LARGEST_CHAIN = 100
"""Maximum number of pairs kept together for nearly equal queries; larger groups come from a template."""
FEWEST_DEV, MOST_DEV = 200, 500
"""Minimum and maximum number of pairs in the dev set; see `split_dev`."""
SHOWN = 80
"""Characters of a text that a message shows."""


def split_by_share(
    pairs: Sequence[Pair], share: float, seed: int, tells: bool = True
) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Hold out about `share` of the pairs, never more. Pairs that share a query or a positive stay on one side.

    So do pairs with nearly equal queries, unless there are too many (`LARGEST_CHAIN`). If `tells`, a message counts
    nearly equal queries that end up on both sides. About the same share of groups of every size is held out.

    Returns:
        The training pairs and the held-out pairs.

    Raises:
        DataError: no pair is left to train on.
    """
    budget = share * len(pairs)
    near = near_queries(pairs)
    groups = _connected(pairs, near, min(budget, LARGEST_CHAIN))
    held_out = np.isin(groups, _drawn(groups, budget, seed))
    if held_out.all():
        raise DataError("[data]", "no pairs are left to train on.")
    if tells:
        tell_near(pairs, near, held_out)
    return take(pairs, ~held_out), take(pairs, held_out)


def split_dev(
    pairs: Sequence[Pair], share: float, seed: int, sources: Sequence[str] = ()
) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Split about `share` of the training pairs off as a dev set; pairs that share a text stay together.

    If `sources` names several sources, each gives its share; pairs of another source that share a text with the dev set
    are left out of the training.

    The dev set has at most `MOST_DEV` pairs, because more add little to a choice. If it would have fewer than
    `FEWEST_DEV`, it stays empty: a smaller one decides nothing, and training needs the pairs more.
    """
    budget = min(share * len(pairs), MOST_DEV)
    if budget < FEWEST_DEV:
        return pairs, ()
    dev = np.zeros(len(pairs), dtype=bool)
    for numbers in numbers_by_source(pairs, sources) if sources else [np.arange(len(pairs))]:
        groups = _connected(take(pairs, numbers), near=(), most=0)
        dev[numbers] = np.isin(groups, _drawn(groups, budget * (len(numbers) / len(pairs)), seed))
    train, chosen = take(pairs, ~dev), take(pairs, dev)
    return (without_texts_of(train, chosen, "the dev set") if sources else train), chosen


def numbers_by_source(pairs: Iterable[Pair], sources: Sequence[str]) -> list[Numbers]:
    """Return the numbers of the pairs of each source, in ascending order."""
    places = {name: place for place, name in enumerate(sources)}
    of_pairs = np.array([places[pair.source or ""] for pair in pairs], dtype=np.int64)
    return [np.flatnonzero(of_pairs == place) for place in range(len(sources))]


def without_texts_of(train: Sequence[Pair], test: Sequence[Pair], where: str) -> Sequence[Pair]:
    """Return the training pairs that share neither query nor positive with a pair of another part.

    A message counts the others; `where` names the other part in it.
    """
    queries, positives = KeyTable(), KeyTable()
    for pair in test:
        queries.add(text_key(pair.query))
        positives.add(text_key(pair.positive))
    is_shared = [text_key(pair.query) in queries or text_key(pair.positive) in positives for pair in train]
    if left_out := sum(is_shared):
        say(f"  {left_out} pairs are not trained on: their query or positive is also in {where}, from another source")
    return take(train, ~np.array(is_shared, dtype=bool))


def without_near(train: Sequence[Pair], test: Sequence[Pair], sources: Sequence[str]) -> Sequence[Pair]:
    """Return the training pairs whose query does not nearly equal a held-out query of another source.

    A message counts the others. Nearly equal queries of one source are already on one side; see `split_by_share`.
    """
    near = {name: NearTo(take(test, own)) for name, own in zip(sources, numbers_by_source(test, sources), strict=True)}
    is_near = np.array(
        [any(pair.query in known for name, known in near.items() if name != pair.source) for pair in train], dtype=bool
    )
    if torn := np.flatnonzero(is_near).tolist():
        first = train[torn[0]]
        told = f"their query nearly equals a held-out query of another source (first: {first.query!r}, pair {first.id})"
        say(f"  {len(torn)} pairs are not trained on: {told}")
    return take(train, ~is_near)


def _drawn(groups: Numbers, budget: float, seed: int) -> list[int]:
    """Draw groups with at most `budget` pairs in all.

    Large groups are drawn first, and smaller ones fill the rest. The number drawn of each size is rounded at random,
    so that every group has the same chance, whatever its size.
    """
    names, counts = np.unique(groups, return_counts=True)
    order, draw = list(range(len(names))), random.Random(seed)
    draw.shuffle(order)
    by_size: dict[int, list[int]] = {}
    for place in order:
        if counts[place] <= budget:
            by_size.setdefault(int(counts[place]), []).append(int(names[place]))
    rest = sum(size * len(same) for size, same in by_size.items())
    drawn: list[int] = []
    count = 0
    for size, same in sorted(by_size.items(), reverse=True):
        most = (budget - count) / size
        wanted = most if rest == size * len(same) else len(same) * (budget - count) / rest + draw.random()
        chosen = same[: int(min(wanted, most))]
        drawn += chosen
        count += size * len(chosen)
        rest -= size * len(same)
    return drawn


def _connected(pairs: Sequence[Pair], near: Iterable[tuple[int, int]], most: float) -> Numbers:
    """Return the group of each pair, (pairs,), such that no query or positive is in two groups.

    Groups with nearly equal queries are merged, unless the result has more than `most` pairs.
    """
    parent = array("q", range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    queries, positives = KeyTable(), KeyTable()
    for index, pair in enumerate(pairs):
        for first, text in ((queries, pair.query), (positives, pair.positive)):
            parent[root(index)] = root(first.setdefault(text_key(text), index))
    sizes = array("q", bytes(8 * len(pairs)))
    for index in range(len(pairs)):
        sizes[root(index)] += 1
    for one, other in near:
        kept, joined = root(one), root(other)
        if kept != joined and sizes[kept] + sizes[joined] <= most:
            parent[joined] = kept
            sizes[kept] += sizes[joined]
    return np.fromiter(map(root, range(len(pairs))), dtype=np.int64, count=len(pairs))


def split_by_source(
    pairs: Sequence[Pair], sources: list[str], tells: bool = True
) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Hold out whole sources. If `tells`, a message counts nearly equal queries that end up on both sides.

    Raises:
        ConfigError: a source does not exist, or none is left to train on.
        DataError: a held-out query is also in another source.
    """
    present = {pair.source for pair in pairs}
    if unknown := [source for source in sources if source not in present]:
        known = ", ".join(sorted(name for name in present if name)) or "none (the pairs carry no source)"
        raise ConfigError("data.held_out", [f"no pairs with source {', '.join(unknown)}; sources found: {known}"])
    held_out = np.array([pair.source in sources for pair in pairs], dtype=bool)
    if held_out.all():
        raise ConfigError("data.held_out", ["every source is held out; nothing is left to train on"])
    test, train = take(pairs, held_out), take(pairs, ~held_out)
    _refuse_leaks(train, test)
    if tells:
        tell_near(pairs, near_queries(pairs), held_out)
    positives = KeyTable()
    for pair in test:
        positives.add(text_key(pair.positive))
    kept = take(train, np.array([text_key(pair.positive) not in positives for pair in train], dtype=bool))
    if left_out := len(train) - len(kept):
        say(f"  {left_out} pairs are not trained on: their positive is held out")
    return kept, test


def _refuse_leaks(train: Sequence[Pair], test: Sequence[Pair]) -> None:
    """Check that no held-out query is also a training query.

    Raises:
        DataError: some are; the message names the first.
    """
    queries = KeyTable()
    for number, pair in enumerate(test):
        queries.setdefault(text_key(pair.query), number)
    found = [queries.get(text_key(pair.query)) for pair in train]
    leaks = [(number, place) for place, number in enumerate(found) if number is not None]
    if leaks:
        held_out, trained = test[leaks[0][0]], train[leaks[0][1]]
        raise DataError(
            "data.held_out",
            f"{len(leaks)} held-out queries are also in training (first: {held_out.query!r}, pair {held_out.id} of "
            f"{held_out.source} and pair {trained.id} of {trained.source}). Remove them from one of the sources.",
        )


def require_groups(texts: Iterable[Pair | Document], count: int, name: str, source: str) -> None:
    """Check that two or more texts are not all of one group.

    Args:
        texts: training texts.
        count: number of texts.
        name: what to call them in messages.
        source: their origin, for messages.

    Raises:
        DataError: all texts are of one group.
    """
    rest = iter(texts)
    group = first.group if (first := next(rest, None)) else None
    if count > 1 and group and all(text.group == group for text in rest):
        found = f"all {count} {name} are of one group ({json.dumps(group[:SHOWN], ensure_ascii=False)})"
        fault = "texts of one group are never negatives of each other, so no two can share a batch"
        raise DataError(source, f"{found}: {fault}. Add {name} of other groups, or remove the groups.")
