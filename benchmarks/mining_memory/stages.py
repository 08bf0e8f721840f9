"""Run and time the data stage and mining on a corpus of random words."""

import resource
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from multigrain.config import Config
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import PairFile
from multigrain.data.mined_candidates import MinedFile, mined_writer
from multigrain.files import to_line, write_objects
from multigrain.model.encode import CachedEncoder
from multigrain.model.roles import Vectors
from multigrain.pipeline.known_false_negatives import false_negatives_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import data as data_stage
from multigrain.retrieval.mine import mine_candidates

SEED = 7
VOCABULARY = 50_000
WORDS = 16
"""Words at the start of a text that make its vector."""


class WordHashing:
    """The part of a sentence-transformers model that the encoder uses; a text is the sum of its first words."""

    def __init__(self, dimension: int) -> None:
        self.prompts: dict[str, str] = {}
        self._table = np.random.default_rng(0).normal(size=(4096, dimension)).astype(np.float32)

    def get_embedding_dimension(self) -> int:  # noqa: D102
        return int(self._table.shape[1])

    def encode(self, texts: list[str], **_options: object) -> Vectors:  # noqa: D102
        words = [text.split(maxsplit=WORDS)[:WORDS] for text in texts]
        rows = [[zlib.crc32(word.encode()) % len(self._table) for word in few] for few in words]
        vectors = np.stack([self._table[row].sum(axis=0) for row in rows])
        return cast(Vectors, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def write_run(folder: Path, documents: int, queries: int, words: int = 150, padding: str = "") -> Config:
    """Write a corpus of words drawn by Zipf's law, pairs with words of their positives as queries, and the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    names = [f"word{rank}" for rank in range(VOCABULARY + 1)]
    pairs = []
    with (folder / "corpus.jsonl").open("wb") as file:
        for start in range(0, documents, 1000):
            ranks = np.minimum(draw.zipf(1.2, size=(min(1000, documents - start), words)), VOCABULARY)
            for number, row in enumerate(ranks.tolist(), start):
                text = " ".join([str(number), *(names[rank] for rank in row)]) + padding
                file.write(to_line({"id": str(number), "text": text}))
                if number % (documents // queries) == 0:
                    query = " ".join([str(number), *(names[rank] for rank in row[:8])])
                    pairs.append({"id": str(number), "query": query, "positive": text})
    write_objects(folder / "pairs.jsonl", pairs)
    data = {"pairs": str(folder / "pairs.jsonl"), "corpus": str(folder / "corpus.jsonl"), "held_out": 0.01}
    return Config.model_validate({"name": "run", "seed": SEED, "output": str(folder), "data": data})


def timed(work: Callable[[Config, int], dict[str, int]], config: Config, dimension: int) -> dict[str, Any]:
    begun, begun_cpu, before = time.monotonic(), time.process_time(), _peak_mb()
    counts = work(config, dimension)
    wall, cpu = time.monotonic() - begun, time.process_time() - begun_cpu
    return {"seconds": round(wall), "cpu_seconds": round(cpu), "peak_mb": _peak_mb(), "before_mb": before, **counts}


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def data(config: Config, _dimension: int) -> dict[str, int]:
    return data_stage.data(config, RunDir(config.folder)).counts


def mining(config: Config, dimension: int) -> dict[str, int]:
    run_dir = RunDir(config.folder)
    model = cast(Any, WordHashing(dimension))
    embed = CachedEncoder(lambda: model, "word hashing", run_dir.judge_vectors, "encoding")
    waves = mine_candidates(
        pairs=PairFile(run_dir.train_pairs),
        known=false_negatives_of(run_dir),
        documents=Corpus(run_dir.corpus),
        embed=embed,
        bounds=config.grading.bounds,
        mining=config.mining,
        judges=["embedding", "bm25"],
        seed=config.seed,
        folder=run_dir.mined.parent,
    )
    run_dir.mined.parent.mkdir(parents=True, exist_ok=True)
    with mined_writer(run_dir.mined) as writer:
        for mined in waves:
            writer.write(mined)
    return {"candidates": MinedFile(run_dir.mined).rows}
