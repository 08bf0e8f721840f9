from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from multigrain.data.beir import RetrievalTask
from multigrain.errors import DataError
from multigrain.evaluation.compare import paired_bootstrap
from multigrain.evaluation.evaluate import (
    check_unseen,
    evaluate,
    held_out_task,
    load_task,
    top_documents,
    without_queries_of,
)
from multigrain.evaluation.examples import choose_examples
from multigrain.evaluation.metrics import ndcg, recall, reciprocal_rank
from multigrain.model.encode import encode
from multigrain.model.load import load_base
from multigrain.records import Document, Pair
from multigrain.vectors import Role


def test_metrics_by_hand() -> None:
    # Relevant documents of gains 2 and 1 at ranks 3 and 1; a third, of gain 1, is not found.
    ranking, judged = [1, 0, 2, 0], [2, 1, 1]
    ideal = 2 + 1 / log2(3) + 1 / 2
    assert ndcg(ranking, judged, 10) == pytest.approx((1 + 2 / 2) / ideal)
    assert ndcg(ranking, judged, 2) == pytest.approx(1 / (2 + 1 / log2(3)))
    assert reciprocal_rank(ranking, 10) == 1
    assert reciprocal_rank([0, 0, 1], 2) == 0
    assert recall(ranking, judged, 100) == pytest.approx(2 / 3)


def test_metrics_are_the_hosts(tiny_encoder: Path) -> None:
    from tests.conftest import small_pairs

    pairs = small_pairs(40)
    task = held_out_task(
        [Pair(p["id"], p["query"], p["positive"]) for p in pairs],
        [Document(p["id"], p["positive"]) for p in {p["positive"]: p for p in pairs}.values()],
    )
    model = load_base(str(tiny_encoder))
    scores = evaluate(task, lambda texts, role: encode(model, texts, role, "x")).scores
    relevant = {query: set(judged) for query, judged in task.relevance.items()}
    inputs: tuple[Any, Any] = task.queries, task.documents
    host = InformationRetrievalEvaluator(*inputs, relevant, precision_recall_at_k=[100])(model)
    for ours, theirs in (("nDCG@10", "ndcg@10"), ("MRR@10", "mrr@10"), ("Recall@100", "recall@100")):
        mean = float(np.mean([score[ours] for score in scores.values()]))
        assert mean == pytest.approx(host[f"cosine_{theirs}"], abs=1e-9), ours


@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 9))
def test_best_documents_are_those_of_a_full_stable_sort(similarities: list[list[int]], k: int) -> None:
    matrix = np.array(similarities, dtype=np.float32)
    best = top_documents(matrix, np.eye(6, dtype=np.float32), k)
    assert best == [sorted(range(6), key=lambda j: -row[j])[: min(k, 6)] for row in similarities]


def test_bootstrap_knows_a_difference_from_noise() -> None:
    draw = np.random.default_rng(0)
    before = draw.uniform(size=500)
    value, low, high = paired_bootstrap(list(before), list(before + 0.05), seed=1)
    assert (value, low, high) == pytest.approx((0.05, 0.05, 0.05))
    noise = draw.normal(scale=0.1, size=500)
    value, low, high = paired_bootstrap(list(before), list(before + noise), seed=1)
    error = float(noise.std() / np.sqrt(500))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)  # the interval of the normal approximation
    assert paired_bootstrap([0.0, 1.0], [1.0, 1.0], seed=3) == paired_bootstrap([0.0, 1.0], [1.0, 1.0], seed=3)


PAIRS = [Pair("1", "what is a", "text a"), Pair("2", "what is a", "text A2"), Pair("3", "what is b", "Text  B")]
DOCUMENTS = [
    Document("d1", "text a"),
    Document("d2", "text a2"),
    Document("d3", "text b"),
    Document("d4", "c", "train"),
]


def test_a_query_with_two_pairs_has_two_relevant_documents() -> None:
    task = held_out_task(PAIRS, DOCUMENTS)
    assert task.queries == {"1": "what is a", "3": "what is b"}
    assert task.relevance == {"1": {"d1": 1, "d2": 1}, "3": {"d3": 1}}
    assert "d4" not in task.documents


def test_a_query_that_was_trained_on_is_refused() -> None:
    task = held_out_task(PAIRS, DOCUMENTS)
    check_unseen(task, [Pair("x", "what is c", "c")])
    with pytest.raises(DataError, match=r"held-out: 1 of its queries .* \(query 1 is that of pair x\)"):
        check_unseen(task, [Pair("x", "What  is A", "other")])
    other = Pair("y", "what is c", "c")
    assert without_queries_of(task, [Pair("x", "What  is A", "other"), other]) == [other]


def test_held_out_without_held_out_pairs() -> None:
    with pytest.raises(DataError, match="raise data.held_out"):
        load_task("held-out", [], DOCUMENTS)


def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    return np.array([[t.count("a"), t.count("b"), 1] for t in texts], dtype=np.float32)


def test_examples_are_searches_whose_first_result_changed() -> None:
    task = RetrievalTask("t", {"q": "aa", "r": "bb"}, {"x": "aaa", "y": "bbb"}, {"q": {"x": 1}, "r": {"y": 1}})
    good = evaluate(task, embed)
    bad = evaluate(task, lambda texts, role: embed(texts, role)[:, [1, 0, 2] if role == "query" else [0, 1, 2]])
    assert choose_examples(task, good, good, seed=1) == []
    example = next(e for e in choose_examples(task, bad, good, seed=1) if e["query"] == "aa")
    assert (example["rank_before"], example["rank_after"], example["relevant"]) == (2, 1, ["x"])
    assert [document["id"] for document in example["after"]] == ["x", "y"]


def test_the_published_figure_of_a_real_set(real_data: Callable[[str], Path]) -> None:
    """NovelEval, 420 documents: all-MiniLM-L6-v2 has nDCG@10 0.7309, measured with another program."""
    task = load_task(f"beir:{real_data('noveleval')}:test", [], [])
    model = load_base("embedded", 256)
    scores = evaluate(task, lambda texts, role: encode(model, texts, role, "x")).scores
    assert float(np.mean([score["nDCG@10"] for score in scores.values()])) == pytest.approx(0.7309, abs=2e-4)
