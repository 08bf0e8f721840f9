"""A table of each retriever's results before and after training, and a description of the retriever used in search."""

from collections.abc import Iterator
from typing import Any

RETRIEVER_HEAD = ("task", "model", "dense", "bm25", "hybrid")
"""The names of the columns; the third and later ones are retrievers (`multigrain.evaluation.metrics.RETRIEVERS`)."""


def retriever_rows(summary: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield two rows, base and trained, for each task measured with several retrievers; show its first metric.

    Args:
        summary: the content of `summary.json`, where `base` and `trained` map task -> metric -> value; see `metric_by`.

    >>> scores = {"held-out": {"nDCG@10": 0.5, "nDCG@10 bm25": 0.4, "nDCG@10 hybrid": 0.6}}
    >>> next(retriever_rows({"base": scores, "trained": scores}))
    ('held-out (nDCG@10)', 'base', '0.500', '0.400', '0.600')
    """
    _, _, dense, *others = RETRIEVER_HEAD
    for task, metrics in summary["base"].items():
        first = next(iter(metrics))
        names = {dense: first, **{other: f"{first} {other}" for other in others}}
        if metrics.keys().isdisjoint(names[other] for other in others):
            continue
        for model in ("base", "trained"):
            scores = summary[model][task]
            cells = [f"{scores[name]:.3f}" if name in scores else "" for name in names.values()]
            yield (f"{task} ({first})", model, *cells)


def answering(choice: dict[str, Any]) -> str:
    """Describe the retriever that a search uses, and why.

    Args:
        choice: `retrieval.trained` of `scores.json`.

    >>> answering({"best": "hybrid", "weight": 0.3, "queries": 0, "scores": {}})
    'by hybrid (cosine + 0.3 BM25): 0 dev queries cannot choose, so neither weight nor retriever was fitted'
    """
    name = retriever_name(choice["best"], choice["weight"])
    if not choice["scores"]:
        return f"by {name}: {choice['queries']} dev queries cannot choose, so neither weight nor retriever was fitted"
    figures = ", ".join(f"{other} {value:.3f}" for other, value in choice["scores"].items())
    return f"by {name}, the best on {choice['queries']} dev queries (nDCG@10: {figures})"


def retriever_name(retriever: str, weight: float) -> str:
    """Return the display name of a retriever, with the weight of BM25 if it has one."""
    return f"hybrid (cosine + {weight:g} BM25)" if retriever == "hybrid" else retriever
