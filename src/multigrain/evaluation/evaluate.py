"""Measure a model on a task: query by query, pair by pair, tuple by tuple."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from statistics import fmean

from multigrain.data.beir import RetrievalTask
from multigrain.data.record_file import Numbers
from multigrain.evaluation.metrics import COSINE, DEPTH, GOLD, ORDER, accuracy_of, margin_of, score_ranking
from multigrain.evaluation.nearest import NONE, nearest
from multigrain.evaluation.tasks import GradedTask, SimilarityTask, Task, texts_of
from multigrain.model.roles import Embed, Vectors
from multigrain.records import Document, GradedTuple

Scores = dict[str, dict[str, float]]
"""Item (query, pair or tuple) -> metric -> value."""


@dataclass(frozen=True)
class Evaluation:
    """What came of measuring a model on a task.

    Attributes:
        scores: of each item.
        rankings: of a search, the numbers (places in the corpus) of the best documents for each query, best first.
        documents: of a search, how many were searched.
    """

    scores: Scores
    rankings: dict[str, Numbers] = field(default_factory=dict)
    documents: int = 0

    def best(self, query: str) -> int | None:
        """Return the number of the document that was found first; None where none was."""
        ranking = self.rankings[query]
        return int(ranking[0]) if len(ranking) else None


def evaluate(task: Task, embed: Embed) -> Evaluation:
    """Measure the model behind `embed` on a task, item by item."""
    if isinstance(task, SimilarityTask):
        return Evaluation(_similarities(task, embed))
    if isinstance(task, GradedTask):
        return Evaluation(_orders(task, embed))
    return _searches(task, embed)


def _searches(task: RetrievalTask, embed: Embed) -> Evaluation:
    queries = embed(list(task.queries.values()), "query")
    searched = _Numbered(task)
    found = nearest(queries, searched, embed, DEPTH + bool(task.own))
    rankings: dict[str, Numbers] = {}
    scores: Scores = {}
    for query, numbers in zip(task.queries, found.numbers, strict=True):
        own = searched.numbers.get(task.own.get(query, ""), NONE)
        rankings[query] = numbers[(numbers != NONE) & (numbers != own)][:DEPTH]
        judged = {searched.numbers.get(id, NONE): grade for id, grade in task.relevance[query].items()}
        grades = [judged.get(number, 0) for number in rankings[query].tolist()]
        scores[query] = score_ranking(grades, list(task.relevance[query].values()))
    return Evaluation(scores, rankings, searched.count)


class _Numbered:
    """The documents of a task, which are counted as they go by; those that are judged are known by number."""

    def __init__(self, task: RetrievalTask) -> None:
        self._documents = task.documents
        self._wanted = {*chain.from_iterable(task.relevance.values()), *task.own.values()}
        self.numbers: dict[str, int] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            if document.id in self._wanted:
                self.numbers[document.id] = self.count
            self.count += 1
            yield document


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
