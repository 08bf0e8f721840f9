"""Mine candidates from the corpus and sort them into grades by the judge's relevance.

The corpus is streamed in blocks of documents, once for each *wave* of some ten thousand pairs. Memory holds the pairs
of a wave, the documents chosen for them, and about 30 bytes of each document:

    words       of each document, for BM25               (a first pass over the corpus, for all waves)
    relevance   of every document (embedding) and of those that BM25 finds, in blocks      (a pass for each wave)
    choice      for each pair and grade the documents with the smallest keys: random numbers, or keys that fall as
                relevance rises (embedding), or ranks (bm25)

Letters: P pairs of a wave, N documents, n documents of a block, d dimensions of a vector.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multigrain.config import MiningSection
from multigrain.data.blocks import blocks
from multigrain.data.known_false_negatives import FalseNegatives, classes_of_pairs, keys_of
from multigrain.data.mined_candidates import METHODS, NO_RANK, Mined
from multigrain.data.words import words_in
from multigrain.model.engine import LOCAL, Engine
from multigrain.model.roles import Embed, KeepsVectors, embed_queries
from multigrain.records import Document, Pair
from multigrain.retrieval.bm25_index import Bm25Index
from multigrain.retrieval.graded_choice import Chosen, GradedChoice, joined
from multigrain.retrieval.mining_shards import SpreadMining, StoredBlock
from multigrain.retrieval.offers import BM25, EMBEDDING, Block, Hits, Keys, Numbers, Wave, offer_blocks
from multigrain.retrieval.random_draw import drawn_from, salts_of
from multigrain.terminal import meter

WAVE = 32_768
"""Pairs served by one pass over the corpus."""
BLOCK = 1024
"""Documents whose vectors are in memory at once."""
FIRST_BLOCK = 64
"""Documents of the first block. At first every document is good enough, later few are; so each block is twice as long
as the one before."""
DEPTH = 100
"""Documents that BM25 finds for each query; they are then judged and sorted into grades."""


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
    engine: Engine = LOCAL,
    kept: Path | None = None,
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
        engine: encodes the corpus and mines it, by shards if it is not this process; `embed` must then keep vectors.
        kept: folder for the results of shards until their wave is taken; for such an engine only.

    Yields:
        The candidates of a wave of `WAVE` pairs, sorted by pair, method and grade.
    """
    miner = _Miner(documents, known, embed, bounds, mining)
    if engine.ahead:
        miner.spread_over(engine, kept)
    needs_words = BM25 in mining.methods or BM25 in judges
    miner.read_corpus((pair.query for pair in pairs) if needs_words else None, folder)
    rest = iter(pairs)
    number = 0
    while wave := list(islice(rest, WAVE)):
        if number >= first_wave:
            yield miner.mine(wave, number, seed=seed, with_bm25=BM25 in judges)
            miner.forget_shards(number)
        number += 1


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
        self._spread: SpreadMining | None = None

    def spread_over(self, engine: Engine, kept: Path | None) -> None:
        """Mine by shards on an engine from now on; see `SpreadMining`."""
        assert kept is not None  # given with such an engine
        self._spread = SpreadMining(engine, self._stored_blocks, kept)

    def forget_shards(self, number: int) -> None:
        """Remove the results of the shards of a wave whose candidates are kept."""
        if self._spread is not None:
            self._spread.forget(number)

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

    def mine(self, pairs: Sequence[Pair], number: int, seed: int, with_bm25: bool) -> Mined:
        """Return the candidates of a wave of pairs."""
        wave = self._wave(pairs, number * WAVE, seed)
        choices: dict[str, GradedChoice] = {}
        for method in self._mining.methods:
            choices[method] = GradedChoice(
                len(pairs), self._mining.grades, self._mining.per_grade, self._bounds, self._mining.nearest
            )
        hits = self._hits(wave) if BM25 in choices else None
        if self._spread is None:
            offer_blocks(wave, self._blocks(), choices, hits)
        else:
            self._spread.offer(number, wave, choices, hits)
        return self._mined(wave, pairs, choices, hits, with_bm25)

    def _wave(self, pairs: Sequence[Pair], first: int, seed: int) -> Wave:
        queries = embed_queries(self._embed, pairs)
        own = np.einsum("pd,pd->p", queries, self._embed([pair.positive for pair in pairs], "document"))
        shares = queries / np.where(own > 0, own, np.nan).astype(np.float32)[:, None]
        return Wave(first, shares, own, classes_of_pairs(pairs), salts_of(pairs, seed))

    def _hits(self, wave: Wave) -> Hits:
        assert self._index is not None  # it was asked for
        return Hits.of(self._index.nearest(DEPTH, wave.first, wave.last).numbers)

    def _blocks(self) -> Iterator[Block]:
        """Yield the documents that may be mined, in blocks."""
        for numbers, texts in self._mineable("mining"):
            yield Block(numbers, self._embed(texts, "document"), self._barred(numbers), self._drawn(numbers))

    def _stored_blocks(self) -> Iterator[StoredBlock]:
        """Yield the same blocks, after encoding them all."""
        embed = self._embed
        assert isinstance(embed, KeepsVectors)  # see `mine_candidates`
        for _, texts in self._mineable("encoding"):
            embed.request(texts, "document")
        embed.settle()
        for numbers, texts in self._mineable("collecting"):
            stored = embed.stored(texts, "document")
            yield StoredBlock(numbers, stored, self._barred(numbers), self._drawn(numbers))

    def _mineable(self, description: str) -> Iterator[tuple[Numbers, list[str]]]:
        """Yield the numbers and texts of the documents that may be mined, in blocks.

        Each block is up to twice as long as the one before.
        """
        first = 0
        with meter(description, len(self._documents)) as progress:
            for members in blocks(self._documents, BLOCK, first=FIRST_BLOCK):
                mineable = [place for place, document in enumerate(members) if document.split != "held_out"]
                if mineable:
                    yield np.array(mineable) + first, [members[place].text for place in mineable]
                first += len(members)
                progress.advance(len(members))

    def _barred(self, numbers: Numbers) -> tuple[Numbers, Keys]:
        return self._known.classes_of(self._keys[numbers])

    def _drawn(self, numbers: Numbers) -> Numbers:
        return drawn_from(numbers, len(self._documents))

    def _mined(
        self,
        wave: Wave,
        pairs: Sequence[Pair],
        choices: dict[str, GradedChoice],
        hits: Hits | None,
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

    def _bm25_of_positives(self, wave: Wave, pairs: Sequence[Pair]) -> NDArray[np.float32]:
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
