import json
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from multigrain.evaluation.evaluate import Evaluation, evaluate
from multigrain.evaluation.metrics import overall
from multigrain.evaluation.nearest import nearest
from multigrain.evaluation.tasks import GradedTask, SimilarityTask, Task, held_out_task, load_task
from multigrain.model.encode import encode
from multigrain.model.load import load_base
from multigrain.model.roles import Role
from multigrain.records import Document, GradedTuple, Negative, Pair

# Similarities of a few values only, so that there are ties; the last documents come in a block of their own.
SIMILARITIES = st.lists(st.lists(st.integers(-3, 3), min_size=12, max_size=12), min_size=1, max_size=4)


def write_beir(
    folder: Path, queries: dict[str, str], documents: dict[str, str], rows: list[tuple[str, str, int]]
) -> str:
    """A BEIR folder; returns the name of its test split."""
    for name, texts in (("queries", queries), ("corpus", documents)):
        lines = [json.dumps({"_id": id, "title": "", "text": text}) for id, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels").mkdir()
    lines = [f"{query}\t{document}\t{grade}" for query, document, grade in rows]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return f"beir:{folder}:test"


def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    return np.array([[t.count("a"), t.count("b"), 1] for t in texts], dtype=np.float32)


def ids_of(task: Task, found: Evaluation) -> dict[str, list[str]]:
    assert isinstance(task, RetrievalTask)
    ids = [document.id for document in task.documents]
    return {query: [ids[number] for number in numbers] for query, numbers in found.rankings.items()}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _graded(id: str, positive: str, *negatives: tuple[int, str]) -> GradedTuple:
    return GradedTuple(id, "a", positive, tuple(Negative(text, grade, 0.0, "mined") for grade, text in negatives))


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
    inputs: tuple[Any, Any] = task.queries, {document.id: document.text for document in task.documents}
    host = InformationRetrievalEvaluator(*inputs, relevant, precision_recall_at_k=[100])(model)
    for ours, theirs in (("nDCG@10", "ndcg@10"), ("MRR@10", "mrr@10"), ("Recall@100", "recall@100")):
        mean = float(np.mean([score[ours] for score in scores.values()]))
        assert mean == pytest.approx(host[f"cosine_{theirs}"], abs=1e-9), ours


@given(SIMILARITIES, st.integers(1, 14), st.integers(1, 13))
def test_the_nearest_documents_are_those_of_a_full_sort(similarities: list[list[int]], k: int, block: int) -> None:
    documents = [Document(str(number), str(number)) for number in range(12)]
    identity = np.eye(12, dtype=np.float32)
    found = nearest(
        np.array(similarities, dtype=np.float32),
        documents,
        lambda texts, role: identity[[int(t) for t in texts]],
        k,
        block,
    )
    for row, best in zip(similarities, found.ranked(), strict=True):
        assert best == sorted(((float(value), str(n)) for n, value in enumerate(row)), reverse=True)[:k]


def test_a_query_is_no_answer_to_itself(tmp_path: Path) -> None:
    """BEIR takes the document of the query's own id out of a run, and gives the rest to trec_eval.

    Query 7 and document 7 have one id by chance: what is judged relevant is ranked.
    """
    import pytrec_eval

    texts = {"a": "aa", "b": "ab", "c": "abb", "d": "bb", "7": "aab", "8": "bbb"}
    queries = {"a": "aa", "b": "ab", "c": "abb", "7": "bb", "x": "a"}
    judged = [("a", "b", 1), ("a", "a", 0), ("b", "c", 2), ("b", "a", 1), ("c", "d", 1), ("7", "7", 1), ("x", "8", 1)]
    task = load_task(write_beir(tmp_path, queries, texts, judged), [], [])
    found = evaluate(task, embed)
    rankings = ids_of(task, found)
    run = {
        query: {id: float(embed([text], "query")[0] @ embed([other], "document")[0]) for id, other in texts.items()}
        for query, text in queries.items()
    }
    for query in ("a", "b", "c"):
        del run[query][query]  # ignore_identical_ids
        assert query not in rankings[query]
        assert len(rankings[query]) == 5
    relevance = {query: {d: grade for q, d, grade in judged if q == query} for query in queries}
    theirs = pytrec_eval.RelevanceEvaluator(relevance, {"ndcg_cut.10"}).evaluate(run)
    for query, scores in found.scores.items():
        assert scores["nDCG@10"] == pytest.approx(theirs[query]["ndcg_cut_10"], abs=1e-6)
    assert rankings["a"][:3] == ["7", "c", "b"]  # by hand: of cosines 5, 3 and 3 (not of length 1)
    assert found.scores["a"]["nDCG@10"] == pytest.approx(1 / log2(4))
    assert "7" in rankings["7"]


def test_the_hundredth_document_takes_the_place_of_the_query_itself(tmp_path: Path) -> None:
    texts = {str(i): "a" * (150 - i) for i in range(150)}
    rows = [("3", str(i), 1) for i in (0, 100, 101)]
    task = load_task(write_beir(tmp_path, {"3": texts["3"]}, texts, rows), [], [])
    found = evaluate(task, embed)
    assert ids_of(task, found)["3"] == [str(i) for i in range(101) if i != 3]
    assert found.scores["3"]["Recall@100"] == pytest.approx(2 / 3)


def test_the_figure_of_a_real_set(real_data: Callable[[str], Path]) -> None:
    """A third of the queries of NovelEval and their 140 documents, cut at 64 tokens.

    all-MiniLM-L6-v2 has nDCG@10 0.6266, by sentence-transformers and trec_eval (of all of it at 256 tokens: 0.7309).
    """
    task = load_task(f"beir:{real_data('noveleval')}:test", [], [])
    assert isinstance(task, RetrievalTask)
    few = {id: task.queries[id] for id in list(task.queries)[::3]}
    relevance = {id: task.relevance[id] for id in few}
    judged = {document for found in relevance.values() for document in found}
    documents = [document for document in task.documents if document.id in judged]
    assert (len(few), len(documents)) == (7, 140)
    model = load_base("embedded", 64)
    short = replace(task, queries=few, documents=documents, relevance=relevance)
    scores = evaluate(short, lambda texts, role: encode(model, texts, role, "x")).scores
    assert float(np.mean([score["nDCG@10"] for score in scores.values()])) == pytest.approx(0.6266, abs=2e-4)


def test_similar_sentences_by_hand() -> None:
    task = SimilarityTask("sts:x", ["a", "a", "ab"], ["a", "b", "b"], [5.0, 1.0, 3.0])
    scores = evaluate(task, lambda texts, role: _unit(embed(texts, role))).scores
    assert [item["gold"] for item in scores.values()] == [5, 1, 3]
    assert [item["cosine"] for item in scores.values()] == pytest.approx([1, 1 / 2, 2 / np.sqrt(6)], abs=1e-6)
    assert overall(scores.values()) == {"Spearman": 1.0}


def test_the_order_of_grades_by_hand() -> None:
    # Cosines with the query "a", (1, 0, 1): a 1; aab 5/.. and so on; what matters is a > aab > ab > b.
    task = GradedTask(
        "graded:x",
        [
            _graded("right", "a", (1, "b"), (3, "ab"), (3, "aab")),
            _graded("wrong", "ab", (2, "b"), (4, "a")),
        ],
    )
    scores = evaluate(task, lambda texts, role: _unit(embed(texts, role))).scores
    a, aab, ab, b = (
        float(_unit(embed([t], "query"))[0] @ _unit(embed(["a"], "query"))[0]) for t in ("a", "aab", "ab", "b")
    )
    right = {"order": 1.0, "accuracy 1": 1.0, "accuracy 3": 1.0, "margin 1": a - b, "margin 3": a - (ab + aab) / 2}
    assert scores["right"] == pytest.approx(right, abs=1e-6)
    wrong = {"order": 0.0, "accuracy 2": 1.0, "accuracy 4": 0.0, "margin 2": ab - b, "margin 4": ab - a}
    assert scores["wrong"] == pytest.approx(wrong, abs=1e-6)
    whole = overall(scores.values())
    assert (
        list(whole)[:3] == ["order", "accuracy 1", "accuracy 2"] and whole["order"] == 0.5 and whole["accuracy 4"] == 0
    )


def test_the_figure_of_stsb(real_data: Callable[[str], Path]) -> None:
    """A fifteenth of the pairs of STS-B dev, by sentence-transformers and SciPy (of all of them: 0.867)."""
    task = load_task(f"sts:{real_data('stsb') / 'dev.jsonl'}", [], [])
    assert isinstance(task, SimilarityTask) and len(task.scores) == 1500
    short = SimilarityTask(task.name, task.first[::15], task.second[::15], task.scores[::15])
    model = load_base("embedded", 256)
    found = overall(evaluate(short, lambda texts, role: encode(model, texts, role, "x")).scores.values())
    assert found["Spearman"] == pytest.approx(0.8850, abs=1e-3)
