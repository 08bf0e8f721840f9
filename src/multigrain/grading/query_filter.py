"""Filter queries that a language model wrote, before negatives are written for them.

A query is useful if a user could ask it, and if it fits its own passage and few others. Rules check the words; the
round trip checks which documents of the corpus the judge finds nearest to the query.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain

import numpy as np

from multigrain.config import GradingSection
from multigrain.data.blocks import blocks
from multigrain.data.distinct_documents import Documents
from multigrain.data.words import words_in
from multigrain.grading.duplicates import NearDuplicates
from multigrain.grading.language import is_refusal
from multigrain.model.roles import Embed, embed_queries
from multigrain.records import Document, Pair, folded, identity
from multigrain.terminal import meter

BLOCK = 1024
"""Documents whose vectors are in memory at once."""
QUERIES = 1024
"""Queries whose similarities to a block are in memory at once."""
FEWEST_WORDS, MOST_WORDS = 2, 80
SHORTEST = 5
"""Minimum number of characters in a query of one word."""
SHORTEST_COPY, COPIED = 5, 0.8
"""Minimum number of consecutive words, and minimum share of the query, that make it a copy of its passage."""
COMPARED = 400
"""Words of the passage that are compared."""
OPENING_WORDS, OPENING_SHARE, OPENING_FEWEST = 4, 0.05, 5
"""Words of an opening; the share of all queries that may begin with the same one; the number that may in any case."""
NEARLY = 0.95
"""Share of its own passage's score from which on a query fits another document nearly as well."""
SPEAKS_OF_THE_TEXT = re.compile(
    r"\b(this|the|given|above|provided) (text|passage|article|abstract|document|paper|excerpt|author)s?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class DroppedQuery:
    """A pair whose query was dropped, the rule, and the value that broke it."""

    pair: Pair
    rule: str
    value: float


@dataclass(frozen=True)
class FilteredQueries:
    """Kept queries, dropped queries with reasons, and the rank of the own passage for each that passed the rules."""

    kept: list[Pair]
    dropped: list[DroppedQuery]
    ranks: list[tuple[Pair, int]]

    @property
    def kept_ranks(self) -> list[tuple[Pair, int]]:
        """The ranks of the kept queries."""
        kept = {pair.id for pair in self.kept}
        return [(pair, rank) for pair, rank in self.ranks if pair.id in kept]


def filter_queries(
    pairs: Sequence[Pair],
    documents: Documents | Sequence[Document],
    embed: Embed,
    section: GradingSection,
    seed: int,
) -> FilteredQueries:
    """Keep the useful queries.

    Args:
        pairs: written queries with their own passages.
        documents: the corpus, read once.
        embed: the judge's encoder.
        section: `round_trip` and `most_answers`.
        seed: seed of the order in which queries with the same opening are kept.
    """
    dropped: list[DroppedQuery] = []
    candidates = _by_rules(pairs, dropped)
    candidates = _without_stereotypes(candidates, dropped, seed)
    ranks, rivals = _round_trip(candidates, documents, embed)
    kept = []
    for pair, rank, fits in zip(candidates, ranks, rivals, strict=True):
        if rank > section.round_trip:
            dropped.append(DroppedQuery(pair, "round trip", float(rank)))
        elif fits > section.most_answers:
            dropped.append(DroppedQuery(pair, "fits many passages", float(fits)))
        else:
            kept.append(pair)
    return FilteredQueries(kept, dropped, list(zip(candidates, ranks, strict=True)))


def broken_rule(pair: Pair) -> tuple[str, float] | None:
    """Return the first rule that the query breaks, with the value that breaks it; None if it breaks none."""
    for name, rule in RULES:
        if (value := rule(pair)) is not None:
            return name, value
    return None


def _too_short(pair: Pair) -> float | None:
    words = words_in(pair.query)
    return words if words < FEWEST_WORDS and len(pair.query) < SHORTEST else None


def _too_long(pair: Pair) -> float | None:
    words = words_in(pair.query)
    return words if words > MOST_WORDS else None


def _refusal(pair: Pair) -> float | None:
    return 1.0 if is_refusal(pair.query) else None


def _of_the_text(pair: Pair) -> float | None:
    return 1.0 if SPEAKS_OF_THE_TEXT.search(pair.query) else None


def _copy(pair: Pair) -> float | None:
    """Return the share of the query that is in the passage word for word, if it is a copy; else None."""
    if folded(pair.query) == folded(pair.positive):
        return 1.0
    query, passage = folded(pair.query).rstrip(".?!").split(), folded(pair.positive).split()[:COMPARED]
    run = SequenceMatcher(None, query, passage, autojunk=False).find_longest_match().size
    return round(run / len(query), 4) if run >= SHORTEST_COPY and run >= COPIED * len(query) else None


RULES: tuple[tuple[str, Callable[[Pair], float | None]], ...] = (
    ("too short", _too_short),
    ("too long", _too_long),
    ("refusal", _refusal),
    ("speaks of the text", _of_the_text),
    ("copy of the passage", _copy),
)


def _by_rules(pairs: Sequence[Pair], dropped: list[DroppedQuery]) -> list[Pair]:
    kept, seen = [], NearDuplicates()
    for pair in pairs:
        broken = broken_rule(pair)
        if broken is None and seen.add(pair.query) is not None:
            broken = "near duplicate", 1.0
        if broken:
            dropped.append(DroppedQuery(pair, *broken))
        else:
            kept.append(pair)
    return kept


def _without_stereotypes(pairs: Sequence[Pair], dropped: list[DroppedQuery], seed: int) -> list[Pair]:
    """Limit the number of queries that begin alike; a seeded draw decides which are kept."""
    most = max(OPENING_FEWEST, int(OPENING_SHARE * len(pairs)))
    counts: Counter[str] = Counter()
    away: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(pairs)):
        opening = " ".join(folded(pairs[index].query).split()[:OPENING_WORDS])
        counts[opening] += 1
        if counts[opening] > most:
            away.add(int(index))
            dropped.append(DroppedQuery(pairs[index], "stereotyped opening", float(counts[opening])))
    return [pair for index, pair in enumerate(pairs) if index not in away]


def _round_trip(
    pairs: Sequence[Pair], documents: Documents | Sequence[Document], embed: Embed
) -> tuple[list[int], list[int]]:
    """Rank each pair's own passage among all documents (1 = nearest), and count documents that fit nearly as well."""
    if not pairs:
        return [], []
    queries = embed_queries(embed, pairs)
    passages = embed([pair.positive for pair in pairs], "document")
    own = np.einsum("qd,qd->q", queries, passages)
    bound = np.minimum(NEARLY * own, own)
    above, near = np.zeros(len(pairs), dtype=int), np.zeros(len(pairs), dtype=int)
    rows_of: dict[bytes, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows_of.setdefault(identity(pair.positive), []).append(row)
    with meter("round trip", len(documents)) as progress:
        for block in blocks(documents, BLOCK):
            vectors = embed([document.text for document in block], "document")
            owned = [rows_of.get(identity(document.text), []) for document in block]
            columns = np.repeat(np.arange(len(block)), [len(rows) for rows in owned])
            rows = np.array([*chain.from_iterable(owned)], dtype=int)
            for start in range(0, len(pairs), QUERIES):  # so that the similarities take little memory
                part = slice(start, start + QUERIES)
                scores = queries[part] @ vectors.T
                here = (rows >= start) & (rows < start + QUERIES)
                scores[rows[here] - start, columns[here]] = -np.inf
                above[part] += (scores > own[part, None]).sum(axis=1)
                near[part] += (scores >= bound[part, None]).sum(axis=1)
            progress.advance(len(block))
    return (above + 1).tolist(), near.tolist()
