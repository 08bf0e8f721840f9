"""Search the corpus of a finished run, by the retriever that was best on the dev set."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from multigrain.config import MiningSection, one_line
from multigrain.data.corpus_file import Corpus
from multigrain.errors import ConfigError, RunError
from multigrain.evaluation.hybrid import POOL, WEIGHT, WordMatches, pooled
from multigrain.evaluation.metrics import BM25, DENSE
from multigrain.evaluation.nearest import NONE, nearest
from multigrain.export.retriever_table import answering, retriever_name
from multigrain.model.prompts import prompts_of
from multigrain.model.roles import template_of
from multigrain.pipeline.encoders import trained_encoder
from multigrain.pipeline.known_false_negatives import own_documents
from multigrain.pipeline.run_dir import RunDir, read_settings
from multigrain.records import Document, identity
from multigrain.retrieval.kept_bm25 import KeptBm25, kept_bm25
from multigrain.terminal import say

NOT_CHOSEN = {"best": DENSE, "weight": WEIGHT, "queries": 0, "scores": {}}
"""The choice for a run that measured no other retriever."""
Scored = list[tuple[float, int]]
"""Scores and document numbers, best first."""


def search(
    run_dir: RunDir, query: str, k: int, retriever: str | None = None, instruction: str | None = None
) -> list[tuple[float, Document]]:
    """Return the k best documents for a query with their scores, without the document that is the query itself.

    Args:
        run_dir: the run.
        query: the query.
        k: number of documents.
        retriever: `dense`, `bm25` or `hybrid`; None for the one chosen in the evaluation.
        instruction: what the query looks for; None for the run's own instruction, if it has one.

    Raises:
        ConfigError: there is an instruction, but the model was trained without instructions.
    """
    if instruction is not None:
        _check_instruction(run_dir, instruction)
    measured = json.loads(run_dir.scores.read_text(encoding="utf-8")) if run_dir.scores.is_file() else {}
    choice = measured.get("retrieval", {}).get("trained", NOT_CHOSEN)
    say(answering(choice) if retriever is None else f"by {retriever_name(retriever, choice['weight'])}, as asked for")
    own = {identity(pair.positive) for pair in own_documents(run_dir) if identity(pair.query) == identity(query)}
    corpus = _SearchedCorpus(run_dir, Corpus(run_dir.corpus), own, measured.get("precision", "fp32"), instruction)
    found = corpus.search(query, k + len(own), retriever or choice["best"], choice["weight"])
    best = [(score, corpus.documents[number]) for score, number in found if number != NONE]
    return [(score, document) for score, document in best if identity(document.text) not in own][:k]


def _check_instruction(run_dir: RunDir, instruction: str) -> None:
    try:
        one_line(instruction)
    except ValueError as error:
        raise ConfigError("--instruction", [str(error)]) from None
    if not template_of(prompts_of(str(run_dir.model)) or {}):
        found = f"found {instruction!r}, but the model was trained without instructions"
        raise ConfigError("--instruction", [f"{found}; leave it out, or set model.instruction and train again"])


class _SearchedCorpus:
    """The documents of a run, with the means to search them."""

    def __init__(
        self, run_dir: RunDir, documents: Corpus, own: set[bytes], precision: Any, instruction: str | None
    ) -> None:
        self.documents, self._instruction = documents, instruction
        self._run_dir, self._own = run_dir, own
        self._embed = trained_encoder(run_dir.model, run_dir.vectors, precision)

    def search(self, query: str, k: int, retriever: str, weight: float) -> Scored:
        """Return the k best documents."""
        if retriever == DENSE:
            found = nearest(self._vector(query), self.documents, self._embed, k)
            return _scored(found.cosines[0], found.numbers[0])
        depth = max(POOL, k)
        with _index(self._run_dir, self.documents) as index:
            words = WordMatches.of(index, [query], np.array([self._own_number()]), depth)
            if retriever == BM25:
                return _scored(words.scores[0], words.numbers[0])[:k]
            found = nearest(self._vector(query), self.documents, self._embed, depth, wanted=words.numbers)
            pool = pooled(found, words, slice(0, 1))
        order = np.argsort(-pool.scores(weight)[0], kind="stable")[:k]
        return _scored(pool.scores(weight)[0][order], pool.numbers[0][order])

    def _vector(self, query: str) -> Any:
        # The vector is not kept: a search must not grow the file, or copy a read-only one.
        return self._embed.unkept([query], "query", self._instruction)

    def _own_number(self) -> int:
        """Return the number of the document that is the query itself; its score must not be the highest of BM25."""
        if not self._own:
            return NONE
        own = (number for number, document in enumerate(self.documents) if identity(document.text) in self._own)
        return next(own, NONE)


def _scored(scores: Any, numbers: Any) -> Scored:
    return list(zip(scores.tolist(), numbers.tolist(), strict=True))


@contextmanager
def _index(run_dir: RunDir, documents: Corpus) -> Iterator[KeptBm25]:
    """Yield the BM25 index of the run, or a temporary one if the folder has none and cannot be written."""
    language = read_settings(run_dir.config).get("mining", {}).get("language", MiningSection().language)
    try:
        index = kept_bm25(documents, language, run_dir.bm25, making=run_dir.lock())
    except (OSError, RunError):  # there is none, and the folder is read-only or used by a run
        with TemporaryDirectory() as folder:
            yield kept_bm25(documents, language, Path(folder))
        return
    yield index
