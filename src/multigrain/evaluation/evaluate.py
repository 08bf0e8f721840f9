"""Measure a model on each item of a task: each query, pair or tuple."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from multigrain.data.beir import RetrievalTask
from multigrain.data.record_file import Numbers
from multigrain.evaluation.hybrid import POOL, WEIGHT, Pool, WordMatches, pooled
from multigrain.evaluation.metrics import (
    BM25,
    COSINE,
    DEPTH,
    GOLD,
    HYBRID,
    ORDER,
    RETRIEVERS,
    accuracy_of,
    margin_of,
    metric_by,
    score_ranking,
)
from multigrain.evaluation.nearest import NONE, QUERIES, Nearest, nearest
from multigrain.evaluation.tasks import GradedTask, SimilarityTask, Task, texts_of
from multigrain.model.roles import Embed, Vectors, embed_instructed, embed_queries
from multigrain.records import Document, GradedTuple
from multigrain.retrieval.kept_bm25 import kept_bm25

Scores = dict[str, dict[str, float]]
"""Item (query, pair or tuple) -> metric -> value."""


@dataclass(frozen=True)
class Evaluation:
    """The results of a model on a task.

    Attributes:
        scores: the metrics of each item.
        rankings: for a search, the numbers (positions in the corpus) of the best documents for each query, best first.
        documents: for a search, the number of documents searched.
    """

    scores: Scores
    rankings: dict[str, Numbers] = field(default_factory=dict)
    documents: int = 0

    def best(self, query: str) -> int | None:
        """Return the number of the top document; None if none was found."""
        ranking = self.rankings[query]
        return int(ranking[0]) if len(ranking) else None


def evaluate(
    task: Task,
    embed: Embed,
    words: WordMatches | None = None,
    weight: float = WEIGHT,
    retrievers: Sequence[str] = RETRIEVERS,
) -> Evaluation:
    """Measure the model behind `embed` on a task, item by item.

    Args:
        task: the task to measure on.
        embed: encodes texts.
        words: for a search, the results of BM25 (`word_matches`). If given, BM25 and the hybrid are measured too, under
            their own names (`metric_by`).
        weight: weight of BM25 in the hybrid.
        retrievers: the retrievers to measure; the cosine is always included.
    """
    if isinstance(task, SimilarityTask):
        return Evaluation(_similarities(task, embed))
    if isinstance(task, GradedTask):
        return Evaluation(_orders(task, embed))
    return search_of(task, embed, words).evaluation(weight, retrievers)


def word_matches(task: RetrievalTask, language: str, parent: Path) -> WordMatches:
    """Search the documents of a task by BM25; the index is kept in a folder below `parent` (see `kept_bm25`)."""
    searched = _Numbered(task)
    index = kept_bm25(searched, language, parent)
    return WordMatches.of(index, list(task.queries.values()), searched.own())


@dataclass(frozen=True)
class Search:
    """The results of a search, which can be ranked with any weight.

    Attributes:
        task: the queries, and their relevant documents.
        found: the nearest documents.
        words: the results of BM25, or None.
        searched: the documents, with their count.
        own: (Q,) number of the document that is the query itself and is not ranked, or `NONE`.
    """

    task: RetrievalTask
    found: Nearest
    words: WordMatches | None
    searched: "_Numbered"
    own: Numbers

    def evaluation(self, weight: float, retrievers: Sequence[str] = RETRIEVERS) -> Evaluation:
        """Measure the cosine, and the other given retrievers."""
        scores = self.scores(self.found.numbers)
        rankings = {query: self._ranking(row, self.found.numbers[row]) for row, query in enumerate(self.task.queries)}
        if self.words is not None:
            if BM25 in retrievers:
                _add(scores, BM25, self.scores(self.words.numbers))
            if HYBRID in retrievers:
                hybrid = np.concatenate([pool.ranked(weight, DEPTH) for pool in self.pools()])
                _add(scores, HYBRID, self.scores(hybrid))
        return Evaluation(scores, rankings, self.searched.count)

    def scores(self, rankings: Numbers) -> Scores:
        """Score the first `DEPTH` documents of rankings, (Q, any length) numbers or `NONE`."""
        scores: Scores = {}
        for row, query in enumerate(self.task.queries):
            relevance = self.task.relevance[query]
            judged = {self.searched.numbers.get(id, NONE): grade for id, grade in relevance.items()}
            ranking = self._ranking(row, rankings[row])
            scores[query] = score_ranking([judged.get(number, 0) for number in ranking.tolist()], [*relevance.values()])
        return scores

    def pools(self) -> Iterator[Pool]:
        """Yield the pooled results of both retrievers, `QUERIES` queries at a time."""
        assert self.words is not None
        for first in range(0, len(self.task.queries), QUERIES):
            yield pooled(self.found, self.words, slice(first, first + QUERIES))

    def _ranking(self, row: int, numbers: Numbers) -> Numbers:
        ranking: Numbers = numbers[(numbers != NONE) & (numbers != self.own[row])][:DEPTH]
        return ranking


def _add(scores: Scores, retriever: str, more: Scores) -> None:
    for query, item in more.items():
        scores[query] |= {metric_by(retriever, name): value for name, value in item.items()}


def search_of(task: RetrievalTask, embed: Embed, words: WordMatches | None = None) -> Search:
    """Search the documents of a task by cosine, and compute the cosines of the documents that BM25 found."""
    instructions = [task.instructions.get(id) for id in task.queries]
    queries = embed_instructed(embed, list(task.queries.values()), instructions)
    searched = _Numbered(task)
    depth = DEPTH if words is None else POOL
    wanted = None if words is None else words.numbers
    found = nearest(queries, searched, embed, depth + bool(task.own), wanted=wanted)
    return Search(task, found, words, searched, searched.own())


class _Numbered:
    """The documents of a task, counted during iteration, which also records the numbers of judged documents."""

    def __init__(self, task: RetrievalTask) -> None:
        self._task = task
        self._wanted = {*chain.from_iterable(task.relevance.values()), *task.own.values()}
        self.numbers: dict[str, int] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Document]:
        self.count = 0
        for document in self._task.documents:
            if document.id in self._wanted:
                self.numbers[document.id] = self.count
            self.count += 1
            yield document

    def own(self) -> Numbers:
        """Return for each query the number of the document that is the query itself, (Q,), or `NONE`."""
        own = [self.numbers.get(self._task.own.get(query, ""), NONE) for query in self._task.queries]
        return np.array(own, dtype=np.int64)


def _similarities(task: SimilarityTask, embed: Embed) -> Scores:
    """Return the cosine and the human score of each pair; both sentences are encoded as documents."""
    first = embed(task.first, "document")
    second = embed(task.second, "document")
    cosines = (first * second).sum(axis=1)
    scores: Scores = {}
    for cosine, score in zip(cosines, task.scores, strict=True):
        number = str(len(scores) + 1)
        scores[number] = {COSINE: float(cosine), GOLD: score}
    return scores


def _orders(task: GradedTask, embed: Embed) -> Scores:
    queries = embed_queries(embed, task.tuples)
    texts = embed(texts_of(task), "document")
    scores: Scores = {}
    start = 0
    for graded, query in zip(task.tuples, queries, strict=True):
        end = start + 1 + len(graded.negatives)
        scores[graded.id] = _order(graded, texts[start:end] @ query)
        start = end
    return scores


def _order(graded: GradedTuple, cosines: Vectors) -> dict[str, float]:
    """Score how well the cosines agree with the grades; a grade's cosine is the mean over its negatives.

    Args:
        graded: one tuple.
        cosines: (1 + negatives,) cosines of the query with the positive, then with each negative.
    """
    by_grade: dict[int, list[float]] = {}
    for negative, cosine in zip(graded.negatives, cosines[1:], strict=True):
        by_grade.setdefault(negative.grade, []).append(float(cosine))
    means = {grade: fmean(by_grade[grade]) for grade in sorted(by_grade)}
    positive = float(cosines[0])
    rising = [*means.values(), positive]
    scores = {ORDER: float(all(low < high for low, high in pairwise(rising)))}
    for grade in means:
        scores[accuracy_of(grade)] = fmean(positive > cosine for cosine in by_grade[grade])
    for grade, mean in means.items():
        scores[margin_of(grade)] = positive - mean
    return scores
