"""Decide which pairs are held out: a share of them, or whole sources."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from multigrain.data.near_queries import near_queries, tell_near
from multigrain.errors import ConfigError, DataError
from multigrain.records import Document, Pair, folded
from multigrain.terminal import say

LARGEST_CHAIN = 100
"""Pairs that are kept together because of queries that nearly equal each other; more are made by a template."""
SHOWN = 80
"""Characters of a text in a message."""


def split_by_share(pairs: list[Pair], share: float, seed: int, tells: bool = True) -> tuple[list[Pair], list[Pair]]:
    """Hold out about `share` of the pairs, never more. Pairs that share a query or a positive stay on one side.

    So do pairs whose queries nearly equal each other, as far as they are few; how much of that stays on both sides is
    said, if `tells`. Of groups of every size about the same share is held out.

    Raises:
        DataError: no pair is left to train on.
    """
    budget = share * len(pairs)
    near = near_queries(pairs)
    held_out = _drawn(_connected(pairs, near, min(budget, LARGEST_CHAIN)), budget, seed)
    train = [pair for pair in pairs if pair.id not in held_out]
    if not train:
        raise DataError("[data]", "no pairs are left to train on.")
    if tells:
        tell_near(pairs, near, held_out)
    return train, [pair for pair in pairs if pair.id in held_out]


def _drawn(groups: dict[int, list[str]], budget: float, seed: int) -> set[str]:
    """Draw groups with at most `budget` pairs in all; return the ids of their pairs.

    Large groups are drawn first, and then as many smaller ones as bring the rest.
    How many are drawn of a size is rounded at random, so that a group's chance is the same whatever its size.
    """
    order, draw = sorted(groups), random.Random(seed)
    draw.shuffle(order)
    by_size: dict[int, list[int]] = {}
    for group in order:
        if len(groups[group]) <= budget:
            by_size.setdefault(len(groups[group]), []).append(group)
    rest = sum(size * len(same) for size, same in by_size.items())
    held_out: set[str] = set()
    for size, same in sorted(by_size.items(), reverse=True):
        most = (budget - len(held_out)) / size
        wanted = most if rest == size * len(same) else len(same) * (budget - len(held_out)) / rest + draw.random()
        for group in same[: int(min(wanted, most))]:
            held_out.update(groups[group])
        rest -= size * len(same)
    return held_out


def _connected(pairs: list[Pair], near: Iterable[tuple[int, int]], most: float) -> dict[int, list[str]]:
    """Return the ids of the pairs, grouped so that a query or a positive lies wholly in one group.

    Groups whose queries nearly equal each other are one too, unless that has more than `most` pairs.
    """
    parent = list(range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, pair in enumerate(pairs):
        for key in (("query", folded(pair.query)), ("positive", folded(pair.positive))):
            parent[root(index)] = root(first.setdefault(key, index))
    sizes = Counter(map(root, range(len(pairs))))
    for one, other in near:
        kept, joined = root(one), root(other)
        if kept != joined and sizes[kept] + sizes[joined] <= most:
            parent[joined] = kept
            sizes[kept] += sizes[joined]
    groups: dict[int, list[str]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(root(index), []).append(pair.id)
    return groups


def split_by_source(pairs: list[Pair], sources: list[str]) -> tuple[list[Pair], list[Pair]]:
    """Hold out whole sources.

    Raises:
        ConfigError: a source is not there, or none is left to train on.
        DataError: a query of theirs stands in another source too.
    """
    present = {pair.source for pair in pairs}
    if unknown := [source for source in sources if source not in present]:
        known = ", ".join(sorted(name for name in present if name)) or "none (the pairs carry no source)"
        raise ConfigError("data.held_out", [f"no pairs with source {', '.join(unknown)}; sources found: {known}"])
    test = [pair for pair in pairs if pair.source in sources]
    train = [pair for pair in pairs if pair.source not in sources]
    if not train:
        raise ConfigError("data.held_out", ["every source is held out; nothing is left to train on"])
    queries = {folded(pair.query): pair for pair in test}
    leaks = [(queries[folded(pair.query)], pair) for pair in train if folded(pair.query) in queries]
    if leaks:
        held_out, trained = leaks[0]
        raise DataError(
            "data.held_out",
            f"{len(leaks)} held-out queries are also in training (first: {held_out.query!r}, pair {held_out.id} of "
            f"{held_out.source} and pair {trained.id} of {trained.source}). Take them out of one of the sources.",
        )
    tell_near(pairs, near_queries(pairs), {pair.id for pair in test})
    positives = {folded(pair.positive) for pair in test}
    kept = [pair for pair in train if folded(pair.positive) not in positives]
    if left_out := len(train) - len(kept):
        say(f"  {left_out} pairs are not trained on: their positive is held out")
    return kept, test


def require_groups(texts: Sequence[Pair | Document], name: str, source: str) -> None:
    """Make sure that there are texts of two groups, if there are two texts.

    Args:
        texts: what is trained on.
        name: what they are, for messages.
        source: where they come from, for messages.

    Raises:
        DataError: all are of one group.
    """
    groups = {text.group for text in texts}
    if len(texts) > 1 and len(groups) == 1 and (group := groups.pop()):
        found = f"all {len(texts)} {name} are of one group ({json.dumps(group[:SHOWN], ensure_ascii=False)})"
        fault = "texts of one group are never negatives of each other, so no two can stand in one batch"
        raise DataError(source, f"{found}: {fault}. Give {name} of other groups too, or leave the groups out.")
