"""Do the same work with sentence-transformers: `mine_hard_negatives` with known vectors; and the floor of BM25."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multigrain.config import Config, config_of
from multigrain.data.jsonl import read_documents, read_pairs
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.run_dir import RunDir

NEGATIVES = 4
"""Negatives of each pair, as many as grades."""
MARGIN = 0.05
"""Share by which a negative's cosine must be below the positive's, as with `grading.false_negative_above`."""


def mine(settings: Path) -> dict[str, Any]:
    """Mine the negatives of a run's pairs from its corpus, in a separate process.

    Returns:
        CPU seconds of reading pairs and corpus, of `mine_hard_negatives` alone and of writing its result as JSON
        lines, and the number of pairs with all negatives.
    """
    import torch
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    torch.set_num_threads(1)
    config = config_of(settings)
    run_dir = RunDir(config.folder)
    begun = time.process_time()
    pairs, documents = list(read_pairs(run_dir.train_pairs)), list(read_documents(run_dir.corpus))
    read = time.process_time()
    rows = Dataset.from_dict({"query": [pair.query for pair in pairs], "positive": [pair.positive for pair in pairs]})
    corpus = [document.text for document in documents if document.split != "held_out"]
    model = _known(config, run_dir, [pair.query for pair in pairs], [*corpus, *(pair.positive for pair in pairs)])
    ready = time.process_time()
    mined = mine_hard_negatives(
        rows,
        model,
        corpus=corpus,
        relative_margin=MARGIN,
        num_negatives=NEGATIVES,
        sampling_strategy="random",
        output_format="n-tuple",
        verbose=False,
    )
    done = time.process_time()
    mined.to_json(str(settings.with_suffix(".stock.jsonl")))
    written = time.process_time()
    seconds = {"reading": read - begun, "mine_hard_negatives": done - ready, "writing": written - done}
    return {**{part: round(cpu, 3) for part, cpu in seconds.items()}, "pairs": len(pairs), "with all": len(mined)}


def _known(config: Config, run_dir: RunDir, queries: Sequence[str], documents: Sequence[str]) -> Any:
    """Return a SentenceTransformer that looks up the vectors of these texts by their number."""
    from sentence_transformers import SentenceTransformer
    from torch.nn import Identity

    embed = judge_encoder(config, run_dir)

    def table(texts: Sequence[str], role: Role) -> tuple[dict[str, int], Vectors]:
        distinct = list(dict.fromkeys(texts))
        return {text: number for number, text in enumerate(distinct)}, embed(distinct, role)

    tables = {"query": table(queries, "query"), "document": table(documents, "document")}

    class Known(SentenceTransformer):
        def encode_query(self, sentences: Any, *_arguments: Any, **_options: Any) -> Any:  # type: ignore[override]
            return self._look_up("query", sentences)

        def encode_document(self, sentences: Any, *_arguments: Any, **_options: Any) -> Any:  # type: ignore[override]
            return self._look_up("document", sentences)

        def _look_up(self, role: Role, texts: Sequence[str]) -> Vectors:
            numbers, vectors = tables[role]
            return np.asarray(vectors[[numbers[text] for text in texts]])

    return Known(modules=[Identity()], device="cpu", similarity_fn_name="cosine")


def take_apart(settings: Path) -> float:
    """Return the CPU seconds that bm25s needs to tokenize the corpus of a run: no BM25 costs less."""
    import bm25s
    import Stemmer

    config = config_of(settings)
    texts = [document.text for document in read_documents(RunDir(config.folder).corpus)]
    language = config.mining.language
    stemmer = Stemmer.Stemmer(language)
    begun = time.process_time()
    bm25s.tokenize(texts, stopwords=language, stemmer=stemmer, show_progress=False)
    return round(time.process_time() - begun, 3)
