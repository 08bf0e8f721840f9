"""Example searches before and after training, for a person to judge."""

import random
from typing import Any

from multigrain.data.beir import RetrievalTask
from multigrain.evaluation.evaluate import Evaluation
from multigrain.records import Document

EXAMPLES = 3
SHOWN = 3
"""Documents shown per ranking."""


def choose_examples(task: RetrievalTask, base: Evaluation, trained: Evaluation, seed: int) -> list[dict[str, Any]]:
    """Draw a random sample (by seed, not by merit) of the queries whose top document changed."""
    changed = [query for query in task.queries if base.best(query) != trained.best(query)]
    chosen = random.Random(seed).sample(changed, min(EXAMPLES, len(changed)))
    shown: set[int] = set()
    for query in chosen:
        shown.update(base.rankings[query][:SHOWN].tolist(), trained.rankings[query][:SHOWN].tolist())
    judged = {id for query in chosen for id in task.relevance[query]}
    documents: dict[int, Document] = {}
    numbers: dict[str, int] = {}
    for number, document in enumerate(task.documents) if chosen else ():
        if number in shown:
            documents[number] = document
        if document.id in judged:
            numbers[document.id] = number
    examples = []
    for query in chosen:
        relevant = [id for id, grade in task.relevance[query].items() if grade > 0]
        wanted = {numbers[id] for id in relevant if id in numbers}
        before, after = base.rankings[query].tolist(), trained.rankings[query].tolist()
        example = {
            "task": task.name,
            "query": task.queries[query],
            "relevant": sorted(relevant),
            "rank_before": _rank(before, wanted),
            "rank_after": _rank(after, wanted),
            "before": _shown(before, documents),
            "after": _shown(after, documents),
        }
        examples.append(example)
    return examples


def _rank(ranking: list[int], relevant: set[int]) -> int | None:
    """Return the rank, from 1, of the first relevant document; None if no relevant document was retrieved."""
    return next((rank for rank, number in enumerate(ranking, start=1) if number in relevant), None)


def _shown(ranking: list[int], documents: dict[int, Document]) -> list[dict[str, str]]:
    return [{"id": documents[number].id, "text": documents[number].text[:200]} for number in ranking[:SHOWN]]
