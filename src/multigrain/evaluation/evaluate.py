"""Rank the documents of a task for each of its queries, and score the rankings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multigrain.data.beir import RetrievalTask, read_beir_task
from multigrain.data.sources import beir_parts
from multigrain.errors import DataError
from multigrain.evaluation.metrics import DEPTH, score_ranking
from multigrain.records import Document, Pair, folded
from multigrain.vectors import Embed, Vectors

HELD_OUT = "held-out"
BLOCK = 256


@dataclass(frozen=True)
class Evaluation:
    """The scores of each query, and the best documents for it (ids, best first)."""

    scores: dict[str, dict[str, float]]
    rankings: dict[str, list[str]]


def load_task(name: str, pairs: Sequence[Pair], documents: Sequence[Document]) -> RetrievalTask:
    """The task behind a name in `evaluation.tasks`.

    Raises:
        DataError: nothing is held out, or the BEIR folder is wrong.
    """
    task = load_queries(name, pairs)
    return held_out_task(pairs, documents) if name == HELD_OUT else task


def load_queries(name: str, pairs: Sequence[Pair]) -> RetrievalTask:
    """The task behind a name; "held-out" has its queries alone, so that no corpus needs to be in memory.

    Raises:
        DataError: see `load_task`.
    """
    if name != HELD_OUT:
        return read_beir_task(*beir_parts(name))
    if not pairs:
        raise DataError(
            "evaluation.tasks", '"held-out" asks for held-out pairs, and there are none; raise data.held_out'
        )
    return RetrievalTask(HELD_OUT, _queries(pairs), {}, {})


def held_out_task(pairs: Sequence[Pair], documents: Sequence[Document]) -> RetrievalTask:
    """Find the positives of each held-out query among the documents that are not for training alone.

    A query that stands in several pairs has several relevant documents.
    """
    searched = {document.id: document.text for document in documents if document.split != "train"}
    id_by_text = {folded(text): id for id, text in searched.items()}
    queries = _queries(pairs)
    ids = {query: id for id, query in queries.items()}
    relevance: dict[str, dict[str, int]] = {}
    for pair in pairs:
        relevance.setdefault(ids[pair.query], {})[id_by_text[folded(pair.positive)]] = 1
    return RetrievalTask(HELD_OUT, queries, searched, relevance)


def _queries(pairs: Sequence[Pair]) -> dict[str, str]:
    """Each distinct query, by the id of its first pair."""
    ids: dict[str, str] = {}
    for pair in pairs:
        ids.setdefault(pair.query, pair.id)
    return {id: query for query, id in ids.items()}


def check_unseen(task: RetrievalTask, train: Sequence[Pair]) -> None:
    """Make sure that no query of the task was trained on.

    Raises:
        DataError: names the first that were.
    """
    seen = {folded(pair.query): pair.id for pair in train}
    leaked = [(id, seen[folded(text)]) for id, text in task.queries.items() if folded(text) in seen]
    if leaked:
        raise DataError(
            task.name,
            f"{len(leaked)} of its queries are also in the training pairs (query {leaked[0][0]} is that of pair "
            f"{leaked[0][1]}). Take them out of data.pairs, or set data.drop_leaked = true to train without them.",
        )


def without_queries_of(task: RetrievalTask, train: Sequence[Pair]) -> list[Pair]:
    """The pairs whose query the task does not ask."""
    asked = {folded(query) for query in task.queries.values()}
    return [pair for pair in train if folded(pair.query) not in asked]


def evaluate(task: RetrievalTask, embed: Embed) -> Evaluation:
    """Score every query of the task by cosine similarity; equal scores rank in the order of the corpus."""
    ids = list(task.documents)
    corpus = embed(list(task.documents.values()), "document")
    queries = embed(list(task.queries.values()), "query")
    scores: dict[str, dict[str, float]] = {}
    rankings: dict[str, list[str]] = {}
    for start in range(0, len(queries), BLOCK):
        names = list(task.queries)[start : start + BLOCK]
        for name, best in zip(names, top_documents(queries[start : start + BLOCK], corpus, DEPTH), strict=True):
            judged = task.relevance[name]
            rankings[name] = [ids[index] for index in best]
            gains = [judged.get(document, 0) for document in rankings[name]]
            scores[name] = score_ranking(gains, list(judged.values()))
    return Evaluation(scores, rankings)


def top_documents(queries: Vectors, corpus: Vectors, k: int) -> list[list[int]]:
    """For each query the rows of the k most similar documents, best first."""
    similarity = queries @ corpus.T
    k = min(k, similarity.shape[1])
    kth = np.partition(similarity, -k, axis=1)[:, -k]
    best = []
    for row, least in zip(similarity, kth, strict=True):
        candidates = np.flatnonzero(row >= least)
        best.append([int(index) for index in candidates[np.argsort(-row[candidates], kind="stable")][:k]])
    return best
