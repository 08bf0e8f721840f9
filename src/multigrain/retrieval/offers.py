"""Offer blocks of documents to the pairs of a wave: what mining does with each range of the corpus.

Letters as in `multigrain.retrieval.mine`: P pairs of a wave, n documents of a block, d dimensions of a vector.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.data.mined_candidates import METHODS
from multigrain.model.roles import Vectors
from multigrain.retrieval.graded_choice import GradedChoice
from multigrain.retrieval.parallel import spread
from multigrain.retrieval.products import Products
from multigrain.retrieval.random_draw import scattered

PAIRS = 256
"""Pairs whose similarities to a block are in memory at once."""
EMBEDDING, BM25 = METHODS

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Wave:
    """The pairs that documents are measured against."""

    first: int
    """The number of the first pair."""
    shares: Vectors
    """(P, d): the dot product with a document's vector is its relative relevance; it is NaN, and so in no band, if the
    positive is irrelevant."""
    own: NDArray[np.float32]
    """(P,) the cosine of query and positive."""
    classes: Keys
    """(P, 2), see `classes_of_pairs`."""
    salts: NDArray[np.uint32]
    """(P,) an odd random number for each pair."""

    @property
    def last(self) -> int:
        """The number of the first pair after the wave."""
        return self.first + len(self.own)


@dataclass(frozen=True)
class Block:
    """Consecutive documents."""

    numbers: Numbers
    """(n,)"""
    vectors: Vectors
    """(n, d)"""
    barred: tuple[Numbers, Keys]
    """Columns of documents, and the class of pairs that each must not be mined for; see `FalseNegatives`."""
    drawn: Numbers
    """Columns of the documents to draw from."""


def offer_blocks(wave: Wave, blocks: Iterable[Block], choices: Mapping[str, GradedChoice], hits: "Hits | None") -> None:
    """Offer blocks to the pairs of a wave.

    Args:
        wave: the pairs.
        blocks: the blocks; a result does not depend on their order, but its last bits depend on how they are cut.
        choices: the choice of each method.
        hits: what BM25 has found, if it is one of the methods.
    """
    relevance = Products(wave.shares)
    with spread() as call:
        for block in blocks:
            found = None if hits is None else hits.among(block.numbers)
            if EMBEDDING in choices:
                relevance.take(block.vectors)
                offer = _offer_all(choices[EMBEDDING], wave, relevance, block, found, choices.get(BM25))
            else:
                assert found is not None  # at least one method is used
                offer = _offer_found(choices[BM25], wave, block, found)
            call(offer, range(0, len(wave.own), PAIRS))


def _offer_all(
    choice: GradedChoice,
    wave: Wave,
    relevance: Products,
    block: Block,
    found: "_Found | None",
    of_found: GradedChoice | None,
) -> Callable[[int], None]:
    """Return a function that offers a block to the `PAIRS` pairs from a given one on, by relevance, key and BM25 rank.

    The random key of pair p and document d is a_p b_d mod 2^32 with random a_p (odd) and b_d. It takes one
    multiplication, no two documents of a pair have the same key, and any member of a band is equally likely to have
    the smallest one.
    """
    drawn = block.numbers[block.drawn]
    factors = scattered(drawn)

    def offer(start: int) -> None:
        rows = slice(start, start + PAIRS)
        relative = relevance.of(rows)
        _bar(relative, wave.classes[rows], *block.barred)
        choice.offer_nearest(start, block.numbers, relative)
        # np.take is six times as fast as indexing, and its rows are contiguous
        some = relative if len(drawn) == len(block.numbers) else np.take(relative, block.drawn, axis=1)
        choice.offer_grid(start, drawn, some, keys=wave.salts[rows, None] * factors)
        if found is not None and of_found is not None:
            pairs, ranks, columns = found.of_pairs(start, start + PAIRS)
            of_found.offer(pairs, block.numbers[columns], relative[pairs - start, columns], ranks)

    return offer


def _offer_found(choice: GradedChoice, wave: Wave, block: Block, found: "_Found") -> Callable[[int], None]:
    """Return a function that offers only BM25's hits to the `PAIRS` pairs from a given one on."""

    def offer(start: int) -> None:
        pairs, ranks, columns = found.of_pairs(start, start + PAIRS)
        if not len(pairs):
            return
        relative = np.einsum("cd,cd->c", wave.shares[pairs], block.vectors[columns])
        rows, row = np.unique(pairs, return_inverse=True)
        grid = np.zeros((len(rows), len(block.numbers)), dtype=np.float32)
        _bar(grid, wave.classes[rows], *block.barred)
        relative[grid[row, columns] > 0] = np.inf
        choice.offer(pairs, block.numbers[columns], relative, ranks)

    return offer


def _bar(relative: Vectors, classes: Keys, columns: Numbers, barred: Keys) -> None:
    """Set the relevance, (rows, n), of documents that are barred for a class of the row to infinity, in place."""
    for of_rows in classes.T:
        present, row = np.unique(of_rows, return_inverse=True)
        place = np.minimum(np.searchsorted(present, barred), len(present) - 1)
        if (here := present[place] == barred).any():
            grid = np.zeros((len(present), relative.shape[1]), dtype=bool)
            grid[place[here], columns[here]] = True
            relative[grid[row]] = np.inf


@dataclass(frozen=True)
class Hits:
    """Documents found by BM25 for the pairs of a wave, in the order of the corpus, (hits,) each."""

    depth: int
    """Documents found for each pair."""
    order: NDArray[np.int32]
    """The number of the pair times `depth`, plus the rank."""
    numbers: NDArray[np.int32]
    """The documents, ascending."""

    @classmethod
    def of(cls, nearest: Numbers) -> "Hits":
        """Return the hits from the documents found for each pair, (P, depth)."""
        order = np.argsort(nearest, axis=None, kind="stable").astype(np.int32)
        return cls(nearest.shape[1], order, nearest.ravel()[order].astype(np.int32))

    def between(self, first: int, last: int) -> "Hits":
        """Return the hits among the documents from number `first` to `last`."""
        rows = slice(*np.searchsorted(self.numbers, (first, last + 1)))
        return Hits(self.depth, self.order[rows], self.numbers[rows])

    def among(self, numbers: Numbers) -> "_Found":
        """Return the hits among the documents with these ascending numbers."""
        first, last = np.searchsorted(self.numbers, (numbers[0], numbers[-1] + 1))
        order = np.argsort(self.order[first:last], kind="stable")
        pairs, ranks = np.divmod(self.order[first:last][order], np.int32(self.depth))
        return _Found(pairs, ranks, columns=np.searchsorted(numbers, self.numbers[first:last][order]))


class _Found(NamedTuple):
    """The hits of BM25 among some documents, (hits,) each, in ascending order of pair."""

    pairs: NDArray[np.int32]
    ranks: NDArray[np.int32]
    """0 is the best."""
    columns: Numbers
    """The places of the documents among those passed to `among`."""

    def of_pairs(self, first: int, last: int) -> tuple[Numbers, NDArray[np.uint32], Numbers]:
        """Return pairs, ranks and columns of the pairs from number `first` to `last` - 1."""
        start, end = np.searchsorted(self.pairs, (first, last))
        rows = slice(start, end)
        return self.pairs[rows].astype(np.int64), self.ranks[rows].astype(np.uint32), self.columns[rows]
