"""Measure a model on a task: query by query, pair by pair, tuple by tuple."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import count, islice, pairwise
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
    """The scores of each item; of a search the best documents (ids, best first) for each query, and how many it had."""

    scores: Scores
    rankings: dict[str, list[str]] = field(default_factory=dict)
    documents: int = 0


def evaluate(task: Task, embed: Embed) -> Evaluation:
    """Measure the model behind `embed` on a task."""
    if isinstance(task, SimilarityTask):
        return Evaluation(_similarities(task, embed))
    if isinstance(task, GradedTask):
        return Evaluation(_orders(task, embed))
    return _searches(task, embed)


def _searches(task: RetrievalTask, embed: Embed) -> Evaluation:
    queries = embed(list(task.queries.values()), "query")
    numbers = count()
    documents = (document for document, _ in zip(task.documents, numbers, strict=False))  # counted as they go by
    found = nearest(queries, documents, embed, DEPTH + bool(task.own))
    rankings = {
        query: [id for _, id in best if id != task.own.get(query)][:DEPTH]
        for query, best in zip(task.queries, found, strict=True)
    }
    scores = {query: _score(ranking, task.relevance[query]) for query, ranking in rankings.items()}
    return Evaluation(scores, rankings, next(numbers))


def _score(ranking: list[str], judged: dict[str, int]) -> dict[str, float]:
    return score_ranking([judged.get(document, 0) for document in ranking], list(judged.values()))


def nearest(
    queries: Vectors, documents: Iterable[Document], embed: Embed, k: int, block: int = BLOCK
) -> list[list[tuple[float, str]]]:
    """For each query the k documents of the highest cosine, best first, as (cosine, id).

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
            for row, values in enumerate(similarity, start):
                candidates = _above(values, k)
                best[row] = nlargest(k, [*best[row], *((float(values[c]), ids[c]) for c in candidates)])
    return best


def _above(values: Vectors, k: int) -> list[int]:
    """The places of all values that are no smaller than the k-th greatest."""
    if len(values) <= k:
        return list(range(len(values)))
    places: list[int] = np.flatnonzero(values >= np.partition(values, -k)[-k]).tolist()
    return places


def _similarities(task: SimilarityTask, embed: Embed) -> Scores:
    """The cosine of each pair beside the score that people gave; neither sentence is a query."""
    first, second = embed(task.first, "document"), embed(task.second, "document")
    cosines = (first * second).sum(axis=1)
    return {
        str(number): {COSINE: float(cosine), GOLD: score}
        for number, (cosine, score) in enumerate(zip(cosines, task.scores, strict=True), start=1)
    }


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
    """How well the cosines (positive first) agree with the grades; a grade's cosine is the mean of its negatives'."""
    by_grade: dict[int, list[float]] = {}
    for negative, cosine in zip(graded.negatives, cosines[1:], strict=True):
        by_grade.setdefault(negative.grade, []).append(float(cosine))
    means = {grade: fmean(by_grade[grade]) for grade in sorted(by_grade)}
    positive = float(cosines[0])
    rising = [*means.values(), positive]
    order = {ORDER: float(all(low < high for low, high in pairwise(rising)))}
    accuracies = {accuracy_of(g): fmean(positive > cosine for cosine in by_grade[g]) for g in means}
    return order | accuracies | {margin_of(g): positive - mean for g, mean in means.items()}
