"""The retrievers of a run: the searches by BM25, and the choice among retrievers on the dev set."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multigrain.config import Config
from multigrain.data.beir import RetrievalTask
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_pairs
from multigrain.evaluation.by_source import SearchOfSource, searches_by_source
from multigrain.evaluation.evaluate import Search, search_of, word_matches
from multigrain.evaluation.hybrid import WordMatches
from multigrain.evaluation.metrics import DENSE
from multigrain.evaluation.retriever_choice import Choice, choose, undecided
from multigrain.evaluation.tasks import search_task
from multigrain.model.roles import Embed
from multigrain.pipeline.known_false_negatives import own_documents
from multigrain.pipeline.run_dir import RunDir
from multigrain.retrieval.kept_bm25 import kept_bm25

DEV = "dev"
"""Name of the task with the dev queries."""


class Retrievers:
    """The retrievers that a run measures. BM25 ranks once for all models.

    Args:
        config: the run.
        run_dir: its folder, which keeps the indexes of BM25.
    """

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.names: Sequence[str] = config.evaluation.retrievers
        self._run_dir, self._language, self._seed = run_dir, config.mining.language, config.seed
        self._used: set[Path] = set()
        self._dev = [search.task for search in dev_searches(config, run_dir)]
        self._dev_words = [self.words(task) for task in self._dev]

    @property
    def with_words(self) -> bool:
        """Whether one of the retrievers uses BM25."""
        return [*self.names] != [DENSE]

    def words(self, task: RetrievalTask) -> WordMatches | None:
        """Return the matches of BM25 for the queries of a task; None if no retriever uses it."""
        if not self.with_words:
            return None
        matches = word_matches(task, self._language, self._run_dir.bm25)
        self._used.add(matches.index.folder)
        return matches

    def dev_searches(self, embed: Embed) -> list[Search]:
        """Search with the dev queries of each source; return nothing if the run has no dev set."""
        return [search_of(task, embed, words) for task, words in zip(self._dev, self._dev_words, strict=True)]

    def choice(self, searches: Sequence[Search]) -> Choice:
        """Choose the weight of BM25 and the retriever for a model, by its `dev_searches`."""
        if not searches or not self.with_words:
            return undecided(self.names)
        return choose(searches, self.names, self._seed)

    def clear(self) -> None:
        """Remove all indexes except the used ones and the one of the run's corpus, which `search` needs."""
        if self.with_words:
            index = kept_bm25(Corpus(self._run_dir.corpus), self._language, self._run_dir.bm25)
            self._used.add(index.folder)
        for path in self._run_dir.bm25.glob("*"):
            if path not in self._used:
                shutil.rmtree(path)


def dev_searches(config: Config, run_dir: RunDir) -> list[SearchOfSource]:
    """Return the search with the dev queries, or that of each of several sources; nothing if there is no dev set."""
    pairs = list(read_pairs(run_dir.dev_pairs)) if run_dir.dev_pairs.is_file() else []
    if not pairs:
        return []
    corpus, own = Corpus(run_dir.corpus), own_documents(run_dir)
    if config.data.sources:
        return list(searches_by_source(pairs, corpus, own, config.data.source_names, DEV).values())
    return [SearchOfSource(search_task(DEV, pairs, corpus, own), np.arange(len(corpus)))]
