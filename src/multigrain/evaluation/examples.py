"""A few searches before and after, for a person to judge."""

import random
from typing import Any

from multigrain.data.beir import RetrievalTask
from multigrain.evaluation.evaluate import Evaluation

EXAMPLES = 5
SHOWN = 3
"""Documents shown of each ranking."""


def choose_examples(task: RetrievalTask, base: Evaluation, trained: Evaluation, seed: int) -> list[dict[str, Any]]:
    """Draw a random sample (by seed, not by merit) of the queries for which the best document changed."""
    changed = [query for query in task.queries if base.rankings[query][:1] != trained.rankings[query][:1]]
    chosen = random.Random(seed).sample(changed, min(EXAMPLES, len(changed)))
    shown: set[str] = set()
    for query in chosen:
        shown |= {*base.rankings[query][:SHOWN], *trained.rankings[query][:SHOWN]}
    texts = {document.id: document.text for document in task.documents if document.id in shown}
    return [
        {
            "task": task.name,
            "query": task.queries[query],
            "relevant": sorted(id for id, grade in task.relevance[query].items() if grade > 0),
            "rank_before": _rank(base.rankings[query], task.relevance[query]),
            "rank_after": _rank(trained.rankings[query], task.relevance[query]),
            "before": _shown(base.rankings[query], texts),
            "after": _shown(trained.rankings[query], texts),
        }
        for query in chosen
    ]


def _rank(ranking: list[str], relevance: dict[str, int]) -> int | None:
    """Return the rank, from 1, of the first relevant document; None where it is not among those retrieved."""
    return next((rank for rank, id in enumerate(ranking, start=1) if relevance.get(id, 0) > 0), None)


def _shown(ranking: list[str], texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"id": id, "text": texts[id][:200]} for id in ranking[:SHOWN]]
