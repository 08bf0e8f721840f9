"""Mine a wave of pairs by shards of the corpus, each in any process, and merge what they have chosen.

A shard is a range of consecutive blocks. The products of a block depend in their last bits on its shape, so the blocks
are the same ones as without shards; and `GradedChoice` keeps the same documents in whatever order they are offered.
"""

import io
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from multigrain.files import write_atomic
from multigrain.model.engine import Engine, ShardFailed, require_all
from multigrain.model.vector_file import StoredVectors
from multigrain.retrieval.graded_choice import Best, GradedChoice
from multigrain.retrieval.offers import Block, Hits, Keys, Numbers, Wave, offer_blocks
from multigrain.terminal import meter

SHARD = 32
"""Blocks of a shard: 32,768 documents in a large corpus."""


class StoredBlock(NamedTuple):
    """A block whose vectors are in a file; see `Block`."""

    numbers: Numbers
    vectors: StoredVectors
    barred: tuple[Numbers, Keys]
    drawn: Numbers

    def loaded(self) -> Block:
        """Return the block with its vectors."""
        return Block(self.numbers, self.vectors.read(), self.barred, self.drawn)


class Shard(NamedTuple):
    """Consecutive blocks, and what BM25 has found in them."""

    blocks: list[StoredBlock]
    hits: Hits | None

    @property
    def first(self) -> int:
        """The number of the first document."""
        return int(self.blocks[0].numbers[0])

    @property
    def last(self) -> int:
        """The number of the last document."""
        return int(self.blocks[-1].numbers[-1])


class ShardMiner:
    """Chooses documents from shards, for the pairs of a wave.

    Args:
        wave: the pairs.
        choices: the choice of each method, still empty; not changed.
    """

    def __init__(self, wave: Wave, choices: Mapping[str, GradedChoice]) -> None:
        self._wave, self._choices = wave, choices

    def __call__(self, shard: Shard) -> dict[str, Best]:
        """Return the best documents of a shard, by method."""
        choices = deepcopy(dict(self._choices))
        offer_blocks(self._wave, (block.loaded() for block in shard.blocks), choices, shard.hits)
        return {method: choice.best for method, choice in choices.items()}


class SpreadMining:
    """Mines waves by shards on an engine.

    Args:
        engine: does the shards.
        blocks: yields the blocks of the corpus; called once, because memory holds them (32 bytes for each document).
        kept: folder that keeps the results of shards until their wave is complete, so that a later process need not
            repeat them.
    """

    def __init__(self, engine: Engine, blocks: Callable[[], Iterable[StoredBlock]], kept: Path) -> None:
        self._engine, self._blocks, self._kept = engine, blocks, kept
        self._shards: list[Shard] | None = None

    def offer(self, number: int, wave: Wave, choices: Mapping[str, GradedChoice], hits: Hits | None) -> None:
        """Offer the whole corpus to the pairs of a wave, as `offer_blocks` does.

        Args:
            number: number of the wave.
            wave: the pairs.
            choices: the choice of each method.
            hits: what BM25 has found, if it is one of the methods.

        Raises:
            ShardFailed: a shard cannot be mined; the results of the others are kept.
        """
        if self._shards is None:
            self._shards = list(_shards(self._blocks()))
        work = ShardMiner(wave, deepcopy(dict(choices)))
        waiting: deque[tuple[Path, Callable[[], dict[str, Best]]]] = deque()
        failures: list[ShardFailed] = []

        def finish(most: int) -> None:
            while len(waiting) > most:
                path, result = waiting.popleft()
                try:
                    found = result()
                except ShardFailed as failure:
                    failures.append(failure)
                    continue
                _keep(path, found)
                _merge(found, choices)
                progress.advance(1)

        with meter("mining (shards)", len(self._shards)) as progress:
            for shard in self._shards:
                path = self._kept / f"{number:05}-{shard.first:09}-{shard.last:09}.npz"
                if (known := _kept(path, choices)) is not None:
                    _merge(known, choices)
                    progress.advance(1)
                    continue
                its_hits = None if hits is None else hits.between(shard.first, shard.last)
                name = f"mining, wave {number + 1}, documents {shard.first + 1} to {shard.last + 1}"
                waiting.append((path, self._engine.submit(work, shard._replace(hits=its_hits), name)))
                finish(self._engine.ahead)
            finish(0)
        require_all(failures)

    def forget(self, number: int) -> None:
        """Remove the results of the shards of a wave, and of those before it."""
        for path in self._kept.glob("*.npz"):
            if int(path.name[:5]) <= number:
                path.unlink(missing_ok=True)


def _shards(blocks: Iterable[StoredBlock]) -> Iterator[Shard]:
    rest = iter(blocks)
    while found := list(islice(rest, SHARD)):
        yield Shard(found, None)


def _merge(found: Mapping[str, Best], choices: Mapping[str, GradedChoice]) -> None:
    for method, choice in choices.items():
        choice.merge(found[method])


def _keep(path: Path, found: Mapping[str, Best]) -> None:
    arrays = {f"{method} {name}": getattr(best, name) for method, best in found.items() for name in Best._fields}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())


def _kept(path: Path, methods: Iterable[str]) -> dict[str, Best] | None:
    """Return the kept result of a shard; None if there is none, or if it is damaged."""
    try:
        with np.load(path) as arrays:
            return {method: Best(*(arrays[f"{method} {name}"] for name in Best._fields)) for method in methods}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
