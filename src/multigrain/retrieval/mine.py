"""Mine candidates from the corpus, bucketed into the same grades by the judge's relevance.

The corpus is read as a stream, in blocks of documents; what stays in memory is the pairs, their vectors and what
is chosen for them, whatever the number of documents:

    bm25        the documents that share most words with each query        (a first pass over the corpus)
    relevance   of every document (embedding) and of those (bm25), in blocks  (a second pass)
    choice      for each pair and grade the documents of the smallest keys:
                random numbers (embedding) or ranks (bm25)
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.config import MiningSection
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.model.roles import Embed, Vectors
from multigrain.records import Candidate, Document, Pair, band_of
from multigrain.terminal import Meter, meter

BLOCK = 1024
"""Documents whose vectors are in memory at once."""
PAIRS = 256
"""Pairs whose similarities to a block are in memory at once."""
DEPTH = 100
"""Documents that BM25 finds for each query; they are then judged and cut into grades."""
BM25 = "bm25"

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]


def mine_candidates(
    known: FalseNegatives,
    documents: Sequence[Document],
    embed: Embed,
    model: str,
    bounds: Sequence[float],
    mining: MiningSection = MiningSection(),  # noqa: B008 (it is frozen)
    seed: int = 7,
) -> Iterator[Candidate]:
    r"""Mine up to `per_grade` documents for each pair, grade and method, from the grade's band of relative relevance.

    With vectors of length 1, r(c) = (q \cdot c) / (q \cdot p) is cut by the bounds as in `multigrain.records`.
    "embedding" draws from the whole band at random, by seed, pair and place in the corpus, so that neither the order
    of the pairs nor the size of the blocks matters. "bm25" takes those of the band that BM25 ranks first.

    Never chosen are held-out documents, the query itself, all that is known to answer it, texts of the pair's group,
    and what comes as near as the last bound. What both methods find is proposed once. Pairs whose positive is itself
    irrelevant (r means nothing then) have no candidates.

    Args:
        known: queries with their positives, and what else is known to be no negative of them.
        documents: the corpus; iterated twice, then asked for the chosen ones by number.
        embed: the judge's encoder.
        model: the encoder's name, for the record.
        bounds: the four bounds of `multigrain.records.grade_of`.
        mining: methods, grades, per_grade and language.
        seed: of the choice.

    Yields:
        Candidates by pair, in it by method, in it by grade; `model` is the encoder's name, or "bm25".
    """
    choice = _choose(known, documents, embed, bounds=bounds, mining=mining, seed=seed)
    names = {"embedding": model, BM25: BM25}
    for index, pair in enumerate(known.pairs):
        proposed: set[int] = set()
        for method, best in choice.items():
            for grade, number in best.of_pair(index):
                if number not in proposed:
                    proposed.add(number)
                    yield Candidate(pair.id, grade, documents[number].text, "mined", names[method])


class _Best:
    """The documents of the smallest keys so far, for each pair and grade; a key's low half is the document's number."""

    NONE = np.uint64(2**64 - 1)

    def __init__(self, pairs: int, grades: Sequence[int], per_grade: int) -> None:
        self.grades = grades
        self.keys = np.full((len(self.grades), pairs, per_grade), self.NONE)

    def offer(self, place: int, pairs: Numbers, keys: Keys) -> None:
        """Let documents compete for the grade at `place`; each has the key of `keys`, for the pair of `pairs`."""
        best = self.keys[place]
        touched = np.unique(pairs)
        pairs = np.append(pairs, np.repeat(touched, best.shape[1]))
        keys = np.append(keys, best[touched].ravel())
        order = np.lexsort((keys, pairs))
        pairs, keys = pairs[order], keys[order]
        rank = np.arange(len(pairs)) - np.searchsorted(pairs, pairs)
        kept = rank < best.shape[1]
        best[pairs[kept], rank[kept]] = keys[kept]

    def of_pair(self, pair: int) -> Iterator[tuple[int, int]]:
        """Yield (grade, document's number) of all that is kept for the pair."""
        for grade, keys in zip(self.grades, self.keys[:, pair], strict=True):
            for key in keys[keys != self.NONE]:
                yield grade, int(key) & 0xFFFFFFFF


@dataclass(frozen=True)
class _Block:
    """Some documents that follow each other."""

    numbers: Numbers
    """(documents)"""
    vectors: Vectors
    """(documents, dimension)"""
    barred: tuple[Numbers, Numbers]
    """Columns of documents, and classes of pairs that they must not be mined for; see `FalseNegatives`."""


@dataclass(frozen=True)
class _Targets:
    """The pairs that documents are measured against, and the band of relative relevance of each grade."""

    shares: Vectors
    """(pairs, dimension), see `_shares`."""
    classes: Numbers
    """(pairs, classes of a pair), see `FalseNegatives.classes`."""
    bands: Sequence[tuple[float, float]]
    """(lowest, first above) of each grade wanted."""


def _choose(
    known: FalseNegatives,
    documents: Sequence[Document],
    embed: Embed,
    bounds: Sequence[float],
    mining: MiningSection,
    seed: int,
) -> dict[str, _Best]:
    """Return the best documents by method."""
    pairs, classes = known.pairs, known.classes()
    grades = sorted(set(mining.grades))
    choice: dict[str, _Best] = {method: _Best(len(pairs), grades, mining.per_grade) for method in mining.methods}
    targets = _Targets(_shares(pairs, embed), classes, [band_of(grade, bounds) for grade in grades])
    offers: list[Callable[[_Block], None]] = []
    if "embedding" in choice:
        offers.append(partial(_offer_all, choice["embedding"], targets, _salts(pairs, seed)))
    if BM25 in choice:
        offers.append(partial(_offer_hits, choice[BM25], targets, _hits(pairs, documents, mining.language)))
    with meter("mining", len(documents)) as progress:
        stream = _open(documents, progress)
        while members := list(islice(stream, BLOCK)):
            block = _block(members, embed, known)
            for offer in offers:
                offer(block)
    return choice


def _shares(pairs: Sequence[Pair], embed: Embed) -> Vectors:
    """Return (pairs, dimension): the dot product with a document's vector is its relative relevance.

    Where the positive is irrelevant it is not a number, and so in no band.
    """
    queries = embed([pair.query for pair in pairs], "query")
    own = np.einsum("pd,pd->p", queries, embed([pair.positive for pair in pairs], "document"))
    return queries / np.where(own > 0, own, np.nan).astype(np.float32)[:, None]


def _offer_all(best: _Best, targets: _Targets, salts: NDArray[np.uint32], block: _Block) -> None:
    """Offer every document of the block, at a random key.

    The key of pair p and document d is a_p b_d mod 2^32 with random a_p (odd) and b_d: one
    multiplication, no two documents of a pair alike, and the smallest of a band is any of its members equally likely.
    """
    ranks = _scattered(block.numbers)
    for start in range(0, len(targets.shares), PAIRS):
        rows = slice(start, start + PAIRS)
        relative = targets.shares[rows] @ block.vectors.T
        _bar(relative, targets.classes[rows], *block.barred)
        keys = salts[rows, None] * ranks
        for place, (low, high) in enumerate(targets.bands):
            last = (best.keys[place, rows, -1:] >> 32).astype(np.uint32)
            inside = (relative >= low) & (relative < high) & (keys <= last)
            row, column = np.divmod(np.flatnonzero(inside), inside.shape[1])  # ten times the speed of nonzero
            best.offer(place, row + start, _packed(keys[row, column], block.numbers[column]))


def _bar(relative: Vectors, classes: Numbers, columns: Numbers, barred: Numbers) -> None:
    """Set what must not be mined to infinity, in place: (rows, columns) of which a class of the row is barred."""
    for of_rows in classes.T:
        present, row = np.unique(of_rows, return_inverse=True)
        place = np.minimum(np.searchsorted(present, barred), len(present) - 1)
        if (here := present[place] == barred).any():
            grid = np.zeros((len(present), relative.shape[1]), dtype=bool)
            grid[place[here], columns[here]] = True
            relative[grid[row]] = np.inf


def _offer_hits(best: _Best, targets: _Targets, hits: "_Hits", block: _Block) -> None:
    """Offer the documents of the block that BM25 found, at their rank."""
    pairs, ranks, columns = hits.among(block.numbers)
    relative = np.einsum("cd,cd->c", targets.shares[pairs], block.vectors[columns])
    width = len(block.numbers)  # class * width + column is a number for each (class, document)
    barred_columns, barred_classes = block.barred
    own = targets.classes[pairs] * width + columns[:, None]
    barred = np.isin(own, barred_classes * width + barred_columns).any(axis=1)
    for place, (low, high) in enumerate(targets.bands):
        inside = (relative >= low) & (relative < high) & ~barred
        best.offer(place, pairs[inside], _packed(ranks[inside], block.numbers[columns[inside]]))


class _Found(NamedTuple):
    """The hits of BM25 among some documents, (hits) each."""

    pairs: Numbers
    ranks: Numbers
    """0 is the best."""
    columns: Numbers
    """The places of the documents among those that were asked about."""


class _Hits:
    """Documents that BM25 found, (pairs, DEPTH), in the order of the corpus."""

    def __init__(self, nearest: Numbers) -> None:
        self._depth = nearest.shape[1]
        self._order = np.argsort(nearest, axis=None, kind="stable")
        self._numbers = nearest.ravel()[self._order]

    def among(self, numbers: Numbers) -> _Found:
        """Return the hits among the documents of these numbers, which rise."""
        first, last = np.searchsorted(self._numbers, (numbers[0], numbers[-1] + 1))
        pairs, ranks = np.divmod(self._order[first:last], self._depth)
        return _Found(pairs, ranks, columns=np.searchsorted(numbers, self._numbers[first:last]))


def _hits(pairs: Sequence[Pair], documents: Sequence[Document], language: str) -> _Hits:
    from multigrain.retrieval.bm25 import nearest_by_words

    queries = [pair.query for pair in pairs]
    with meter("BM25", len(documents)) as progress:
        texts = ((number, document.text) for number, document in _open(documents, progress))
        return _Hits(nearest_by_words(queries, texts, DEPTH, language))


def _open(documents: Sequence[Document], progress: Meter) -> Iterator[tuple[int, Document]]:
    """Yield the documents that may be mined, with their numbers."""
    for number, document in enumerate(documents):
        if number % BLOCK == 0:
            progress.advance(min(BLOCK, len(documents) - number))
        if document.split != "held_out":
            yield number, document


def _block(members: list[tuple[int, Document]], embed: Embed, known: FalseNegatives) -> _Block:
    numbers = np.array([number for number, _ in members])
    texts = [document.text for _, document in members]
    return _Block(numbers, embed(texts, "document"), known.classes_of(texts))


def _salts(pairs: Sequence[Pair], seed: int) -> NDArray[np.uint32]:
    """Return an odd random number for each pair, from the seed and its id."""
    digests = [hashlib.blake2b(f"{seed} {pair.id}".encode(), digest_size=4).digest() for pair in pairs]
    return np.frombuffer(b"".join(digests), dtype=np.uint32) | np.uint32(1)


def _scattered(numbers: Numbers) -> NDArray[np.uint32]:
    """Return a pseudo-random number for each document, no two alike: the finalizer of MurmurHash3."""
    x = numbers.astype(np.uint32) + np.uint32(1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _packed(keys: NDArray[Any], numbers: Numbers) -> Keys:
    """Return the keys with the document's number: the key is the high half, the number the low half."""
    return (keys.astype(np.uint64) << np.uint64(32)) | numbers.astype(np.uint64)
