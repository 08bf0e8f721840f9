"""Mine candidates from the corpus and sort them into grades by the judge's relevance.

The corpus is streamed in blocks of documents, once for each *wave* of some ten thousand pairs. Memory holds the pairs
of a wave, the documents chosen for them, and about 30 bytes of each document:

    words       of each document, for BM25               (a first pass over the corpus, for all waves)
    relevance   of every document (embedding) and of those that BM25 finds, in blocks      (a pass for each wave)
    choice      for each pair and grade the documents with the smallest keys: random numbers, or keys that fall as
                relevance rises (embedding), or ranks (bm25)

Letters: P pairs of a wave, N documents, n documents of a block, d dimensions of a vector.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.config import MiningSection
from multigrain.data.blocks import blocks
from multigrain.data.known_false_negatives import FalseNegatives, classes_of_pairs, keys_of
from multigrain.data.mined_candidates import METHODS, NO_RANK, Mined
from multigrain.data.words import words_in
from multigrain.model.roles import Embed, Vectors, embed_queries
from multigrain.records import Document, Pair
from multigrain.retrieval.bm25_index import Bm25Index
from multigrain.retrieval.graded_choice import Chosen, GradedChoice, joined
from multigrain.retrieval.parallel import spread
from multigrain.retrieval.products import Products
from multigrain.retrieval.random_draw import drawn_from, salts_of, scattered
from multigrain.terminal import meter

WAVE = 32_768
"""Pairs served by one pass over the corpus."""
BLOCK = 1024
"""Documents whose vectors are in memory at once."""
FIRST_BLOCK = 64
"""Documents of the first block. At first every document is good enough, later few are; so each block is twice as long
as the one before."""
PAIRS = 256
"""Pairs whose similarities to a block are in memory at once."""
DEPTH = 100
"""Documents that BM25 finds for each query; they are then judged and sorted into grades."""
EMBEDDING, BM25 = METHODS

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]


def mine_candidates(  # noqa: PLR0913 (what is mined, from what, and how)
    pairs: Iterable[Pair],
    known: FalseNegatives,
    documents: Sequence[Document],
    embed: Embed,
    bounds: Sequence[float],
    *,
    mining: MiningSection = MiningSection(),  # noqa: B008 (it is frozen)
    judges: Sequence[str] = (EMBEDDING,),
    seed: int = 7,
    folder: Path | None = None,
    first_wave: int = 0,
) -> Iterator[Mined]:
    r"""Mine up to `per_grade` documents for each pair, grade and method, from the grade's band of relative relevance.

    With vectors of length 1, r(c) = (q \cdot c) / (q \cdot p) is cut by the bounds as in `multigrain.records`.
    "embedding" takes the nearest documents of the grades in `mining.nearest`. For other grades it draws at random from
    the whole band; in a large corpus, from some 65,536 documents. The draw depends on seed, pair and place in the
    corpus, so neither the order of the pairs nor the block size matters. "bm25" takes the documents of the band that
    BM25 ranks first.

    The following are never chosen: held-out documents, the query itself, its known answers, texts of the pair's group,
    and documents at or above the last bound. A document that both methods find is proposed once. A pair whose positive
    is itself irrelevant has no candidates, because r then means nothing.

    Args:
        pairs: queries with their positives; iterated over twice.
        known: texts known not to be negatives of the pairs.
        documents: the corpus; iterated over once, and once more for each wave of pairs.
        embed: the judge's encoder.
        bounds: the four bounds of `multigrain.records.grade_of`.
        mining: methods, grades, nearest, per_grade and language.
        judges: judges whose scores are recorded: "embedding", "bm25" or both.
        seed: seed of the choice.
        folder: folder for temporary files.
        first_wave: number of waves to skip because their candidates exist already.

    Yields:
        The candidates of a wave of `WAVE` pairs, sorted by pair, method and grade.
    """
    miner = _Miner(documents, known, embed, bounds, mining)
    needs_words = BM25 in mining.methods or BM25 in judges
    miner.read_corpus((pair.query for pair in pairs) if needs_words else None, folder)
    rest = iter(pairs)
    number = 0
    while wave := list(islice(rest, WAVE)):
        if number >= first_wave:
            yield miner.mine(wave, first=number * WAVE, seed=seed, with_bm25=BM25 in judges)
        number += 1


@dataclass(frozen=True)
class _Wave:
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
class _Block:
    """Consecutive documents."""

    numbers: Numbers
    """(n,)"""
    vectors: Vectors
    """(n, d)"""
    barred: tuple[Numbers, Keys]
    """Columns of documents, and the class of pairs that each must not be mined for; see `FalseNegatives`."""
    drawn: Numbers
    """Columns of the documents to draw from."""


class _Miner:
    """Chooses documents from the corpus; see `mine_candidates`."""

    def __init__(
        self,
        documents: Sequence[Document],
        known: FalseNegatives,
        embed: Embed,
        bounds: Sequence[float],
        mining: MiningSection,
    ) -> None:
        self._documents, self._known, self._embed = documents, known, embed
        self._bounds, self._mining = bounds, mining
        self._index: Bm25Index | None = None
        self._keys = np.empty(0, np.uint64)
        self._words = np.empty(0, np.float32)

    def read_corpus(self, queries: Iterable[str] | None, folder: Path | None) -> None:
        """Index the documents for BM25 if there are queries; record the key and the number of words of each text."""
        keys, words = [self._keys], [self._words]
        texts = self._texts(keys, words)
        if queries is None:
            for _ in texts:
                pass
        else:
            self._index = Bm25Index(queries, texts, self._mining.language, folder)
        self._keys, self._words = np.concatenate(keys), np.concatenate(words)

    def _texts(self, keys: list[Keys], words: list[NDArray[np.float32]]) -> Iterator[str | None]:
        """Yield the texts that may be mined, and None for the others; append keys and numbers of words to the lists."""
        with meter("reading", len(self._documents)) as progress:
            for block in blocks(self._documents, BLOCK):
                keys.append(keys_of(document.text for document in block))
                words.append(np.array([words_in(document.text) for document in block], dtype=np.float32))
                for document in block:
                    yield None if document.split == "held_out" else document.text
                progress.advance(len(block))

    def mine(self, pairs: Sequence[Pair], first: int, seed: int, with_bm25: bool) -> Mined:
        """Return the candidates of a wave of pairs."""
        wave = self._wave(pairs, first, seed)
        relevance = Products(wave.shares)
        choices: dict[str, GradedChoice] = {}
        for method in self._mining.methods:
            choices[method] = GradedChoice(
                len(pairs), self._mining.grades, self._mining.per_grade, self._bounds, self._mining.nearest
            )
        hits = self._hits(wave) if BM25 in choices else None
        with spread() as call:
            for block in self._blocks():
                found = None if hits is None else hits.among(block.numbers)
                if EMBEDDING in choices:
                    relevance.take(block.vectors)
                    offer = _offer_all(choices[EMBEDDING], wave, relevance, block, found, choices.get(BM25))
                else:
                    assert found is not None  # at least one method is used
                    offer = _offer_found(choices[BM25], wave, block, found)
                call(offer, range(0, len(pairs), PAIRS))
        return self._mined(wave, pairs, choices, hits, with_bm25)

    def _wave(self, pairs: Sequence[Pair], first: int, seed: int) -> _Wave:
        queries = embed_queries(self._embed, pairs)
        own = np.einsum("pd,pd->p", queries, self._embed([pair.positive for pair in pairs], "document"))
        shares = queries / np.where(own > 0, own, np.nan).astype(np.float32)[:, None]
        return _Wave(first, shares, own, classes_of_pairs(pairs), salts_of(pairs, seed))

    def _hits(self, wave: _Wave) -> "_Hits":
        assert self._index is not None  # it was asked for
        return _Hits(self._index.nearest(DEPTH, wave.first, wave.last).numbers)

    def _blocks(self) -> Iterator[_Block]:
        """Yield the documents that may be mined in blocks, each up to twice as long as the one before."""
        first = 0
        with meter("mining", len(self._documents)) as progress:
            for members in blocks(self._documents, BLOCK, first=FIRST_BLOCK):
                mineable = [place for place, document in enumerate(members) if document.split != "held_out"]
                if mineable:
                    numbers = np.array(mineable) + first
                    vectors = self._embed([members[place].text for place in mineable], "document")
                    barred = self._known.classes_of(self._keys[numbers])
                    yield _Block(numbers, vectors, barred, drawn=drawn_from(numbers, len(self._documents)))
                first += len(members)
                progress.advance(len(members))

    def _mined(
        self,
        wave: _Wave,
        pairs: Sequence[Pair],
        choices: dict[str, GradedChoice],
        hits: "_Hits | None",
        with_bm25: bool,
    ) -> Mined:
        """Merge the documents that the methods have chosen."""
        found = [choice.chosen() for choice in choices.values()]
        method = np.repeat([METHODS.index(name) for name in choices], [len(each.pair) for each in found])
        chosen = joined(found)
        order = _first_of_each(chosen)
        chosen, method = chosen.rows(order), method[order]
        pair = chosen.pair
        scores = {EMBEDDING: chosen.relevance * wave.own[pair]}
        positives = {EMBEDDING: wave.own[pair]}
        if with_bm25:
            assert self._index is not None  # it was asked for
            scores[BM25] = self._index.scores(pair + wave.first, chosen.document)
            positives[BM25] = self._bm25_of_positives(wave, pairs)[pair]
        ranks = np.full(len(pair), NO_RANK, dtype=np.int32)
        if hits is not None:
            is_hit = method == METHODS.index(BM25)
            ranks[is_hit] = chosen.key[is_hit]
        return Mined(
            pair=(pair + wave.first).astype(np.int32),
            document=chosen.document.astype(np.int32),
            grade=chosen.grade.astype(np.int8),
            method=method.astype(np.int8),
            rank=ranks,
            words=self._words[chosen.document],
            scores=scores,
            positives=positives,
        )

    def _bm25_of_positives(self, wave: _Wave, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return the BM25 of each positive, (P,); positives in the corpus are already indexed."""
        assert self._index is not None  # it was asked for
        keys = keys_of(pair.positive for pair in pairs)
        distinct, places = np.unique(keys, return_inverse=True)
        documents = np.full(len(distinct), -1)
        at = np.minimum(np.searchsorted(distinct, self._keys), len(distinct) - 1)
        same = np.flatnonzero(distinct[at] == self._keys)
        documents[at[same]] = same
        own = documents[places]
        scores = np.zeros(len(pairs), dtype=np.float32)
        listed, others = np.flatnonzero(own >= 0), np.flatnonzero(own < 0)
        scores[listed] = self._index.scores(listed + wave.first, own[listed])
        texts = [pairs[place].positive for place in others.tolist()]
        scores[others] = self._index.scores_of_texts(others + wave.first, texts)
        return scores


def _first_of_each(chosen: Chosen) -> Numbers:
    """Return the rows sorted by pair, with each document of a pair once, otherwise in their order."""
    by_document = np.lexsort((chosen.document, chosen.pair))  # stable: of equals the first stays first
    pair, document = chosen.pair[by_document], chosen.document[by_document]
    is_first = np.ones(len(pair), dtype=bool)
    is_first[1:] = (pair[1:] != pair[:-1]) | (document[1:] != document[:-1])
    rows = np.sort(by_document[is_first])
    order: Numbers = rows[np.argsort(chosen.pair[rows], kind="stable")]
    return order


def _offer_all(
    choice: GradedChoice,
    wave: _Wave,
    relevance: Products,
    block: _Block,
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


def _offer_found(choice: GradedChoice, wave: _Wave, block: _Block, found: "_Found") -> Callable[[int], None]:
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


class _Hits:
    """Documents found by BM25, (P, DEPTH), in the order of the corpus."""

    def __init__(self, nearest: Numbers) -> None:
        self._depth = nearest.shape[1]
        self._order = np.argsort(nearest, axis=None, kind="stable").astype(np.int32)
        self._numbers = nearest.ravel()[self._order].astype(np.int32)

    def among(self, numbers: Numbers) -> "_Found":
        """Return the hits among the documents with these ascending numbers."""
        first, last = np.searchsorted(self._numbers, (numbers[0], numbers[-1] + 1))
        order = np.argsort(self._order[first:last], kind="stable")
        pairs, ranks = np.divmod(self._order[first:last][order], np.int32(self._depth))
        return _Found(pairs, ranks, columns=np.searchsorted(numbers, self._numbers[first:last][order]))


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
