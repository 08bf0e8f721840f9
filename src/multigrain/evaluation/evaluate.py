"""Measure a model on a task: query by query, pair by pair, tuple by tuple."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice, pairwise
from statistics import fmean

import numpy as np

from multigrain.data.beir import RetrievalTask
from multigrain.evaluation.metrics import COSINE, DEPTH, GOLD, ORDER, accuracy_of, margin_of, score_ranking
from multigrain.evaluation.tasks import GradedTask, SimilarityTask, Task, texts_of
from multigrain.model.roles import Embed, Vectors
from multigrain.records import Document, GradedTuple

BLOCK = 16_384
"""Documents whose texts and vectors are in memory at once."""

Scores = dict[str, dict[str, float]]
"""Item (query, pair or tuple) -> metric -> value."""


@dataclass(frozen=True)
class Evaluation:
    """What came of measuring a model on a task.

    Attributes:
        scores: of each item.
        rankings: of a search, the ids of the best documents for each query, best first.
        documents: of a search, how many were searched.
    """

    scores: Scores
    rankings: dict[str, list[str]] = field(default_factory=dict)
    documents: int = 0


def evaluate(task: Task, embed: Embed) -> Evaluation:
    """Measure the model behind `embed` on a task, item by item."""
    if isinstance(task, SimilarityTask):
        return Evaluation(_similarities(task, embed))
    if isinstance(task, GradedTask):
        return Evaluation(_orders(task, embed))
    return _searches(task, embed)


def _searches(task: RetrievalTask, embed: Embed) -> Evaluation:
    queries = embed(list(task.queries.values()), "query")
    searched = _Counted(task.documents)
    found = nearest(queries, searched, embed, DEPTH + bool(task.own))
    rankings: dict[str, list[str]] = {}
    for query, best in zip(task.queries, found, strict=True):
        own = task.own.get(query)
        rankings[query] = [id for _, id in best if id != own][:DEPTH]
    scores = {query: _score(ranking, task.relevance[query]) for query, ranking in rankings.items()}
    return Evaluation(scores, rankings, searched.seen)


class _Counted:
    """Documents that are counted as they go by."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = documents
        self.seen = 0

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            self.seen += 1
            yield document


def _score(ranking: list[str], judged: dict[str, int]) -> dict[str, float]:
    return score_ranking([judged.get(document, 0) for document in ranking], list(judged.values()))


def nearest(
    queries: Vectors, documents: Iterable[Document], embed: Embed, k: int, block: int = BLOCK
) -> list[list[tuple[float, str]]]:
    """Find the k documents of the highest cosine for each query, best first, as (cosine, id).

    Of documents with the same cosine the greater id comes first, as in trec_eval.

    Args:
        queries: (Q, d) vectors of length 1.
        documents: read once, `block` of them at a time.
        embed: encodes them.
        k: how many are wanted.
        block: how many are in memory at once.
    """
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    rest = iter(documents)
    while portion := list(islice(rest, block)):
        ids = [document.id for document in portion]
        vectors = embed([document.text for document in portion], "document")
        for start in range(0, len(queries), 256):  # so that the similarities take little memory
            similarity = queries[start : start + 256] @ vectors.T
            for row, cosines in enumerate(similarity, start):
                candidates = [(float(cosines[place]), ids[place]) for place in _greatest(cosines, k)]
                best[row] = nlargest(k, [*best[row], *candidates])
    return best


def _greatest(values: Vectors, k: int) -> list[int]:
    """Return the places of all values that are no smaller than the k-th greatest."""
    if len(values) <= k:
        return list(range(len(values)))
    places: list[int] = np.flatnonzero(values >= np.partition(values, -k)[-k]).tolist()
    return places


def _similarities(task: SimilarityTask, embed: Embed) -> Scores:
    """Return the cosine of each pair beside the score that people gave; neither sentence is a query."""
    first = embed(task.first, "document")
    second = embed(task.second, "document")
    cosines = (first * second).sum(axis=1)
    scores: Scores = {}
    for cosine, score in zip(cosines, task.scores, strict=True):
        number = str(len(scores) + 1)
        scores[number] = {COSINE: float(cosine), GOLD: score}
    return scores


def _orders(task: GradedTask, embed: Embed) -> Scores:
    queries = embed([graded.query for graded in task.tuples], "query")
    texts = embed(texts_of(task), "document")
    scores: Scores = {}
    start = 0
    for graded, query in zip(task.tuples, queries, strict=True):
        end = start + 1 + len(graded.negatives)
        scores[graded.id] = _order(graded, texts[start:end] @ query)
        start = end
    return scores


def _order(graded: GradedTuple, cosines: Vectors) -> dict[str, float]:
    """Score how well the cosines agree with the grades; a grade's cosine is the mean of its negatives'.

    Args:
        graded: one tuple.
        cosines: (1 + negatives,) of the query with the positive, then with each negative.
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
