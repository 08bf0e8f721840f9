import json
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
from multigrain.errors import ConfigError, DataError
from multigrain.evaluation.evaluate import evaluate, nearest
from multigrain.evaluation.examples import choose_examples
from multigrain.evaluation.metrics import ndcg, overall, recall, reciprocal_rank, score_ranking, spearman
from multigrain.evaluation.tasks import (
    GradedTask,
    SimilarityTask,
    check_name,
    check_names,
    check_unseen,
    held_out_task,
    load_task,
    without_queries_of,
)
from multigrain.model.encode import encode
from multigrain.model.load import load_base
from multigrain.model.roles import Role
from multigrain.records import Document, GradedTuple, Negative, Pair


def test_metrics_by_hand() -> None:
    # Relevant documents of gains 2 and 1 at ranks 3 and 1; a third, of gain 1, is not found.
    ranking, judged = [1, 0, 2, 0], [2, 1, 1]
    ideal = 2 + 1 / log2(3) + 1 / 2
    assert ndcg(ranking, judged, 10) == pytest.approx((1 + 2 / 2) / ideal)
    assert ndcg(ranking, judged, 2) == pytest.approx(1 / (2 + 1 / log2(3)))
    assert reciprocal_rank(ranking, 10) == 1
    assert reciprocal_rank([0, 0, 1], 2) == 0
    assert recall(ranking, judged, 100) == pytest.approx(2 / 3)


def test_queries_that_differ_in_case_alone_are_one_query() -> None:
    pairs = [Pair("a", "Which cat?", "red"), Pair("b", "which  CAT?", "blue"), Pair("c", "which dog?", "green")]
    task = held_out_task(pairs, [Document(text, text) for text in ("red", "blue", "green")])
    assert task.queries == {"a": "Which cat?", "c": "which dog?"}
    assert task.relevance == {"a": {"red": 1, "blue": 1}, "c": {"green": 1}}


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


# Similarities of a few values only, so that there are ties; the last documents come in a block of their own.
SIMILARITIES = st.lists(st.lists(st.integers(-3, 3), min_size=12, max_size=12), min_size=1, max_size=4)


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
    for row, best in zip(similarities, found, strict=True):
        assert best == sorted(((float(value), str(n)) for n, value in enumerate(row)), reverse=True)[:k]


@given(SIMILARITIES, st.lists(st.integers(-1, 2), min_size=12, max_size=12))
def test_metrics_are_trec_evals_also_for_ties(similarities: list[list[int]], grades: list[int]) -> None:
    """The same rankings and values as trec_eval's own code, which knows no cut for the reciprocal rank."""
    import pytrec_eval

    documents = [Document(str(number), str(number)) for number in range(12)]
    identity = np.eye(12, dtype=np.float32)
    matrix = np.array(similarities, dtype=np.float32)
    found = nearest(matrix, documents, lambda texts, role: identity[[int(t) for t in texts]], 100)
    judged = {str(number): grade for number, grade in enumerate(grades)}
    run = {str(q): {str(d): float(v) for d, v in enumerate(row)} for q, row in enumerate(similarities)}
    measures = {"ndcg_cut.10", "recip_rank", "recall.100"}
    theirs = pytrec_eval.RelevanceEvaluator(dict.fromkeys(run, judged), measures).evaluate(run)
    for query, best in enumerate(found):
        ours, other = score_ranking([judged[id] for _, id in best], list(judged.values())), theirs[str(query)]
        assert ours["nDCG@10"] == pytest.approx(other["ndcg_cut_10"], abs=1e-9)
        assert ours["Recall@100"] == pytest.approx(other["recall_100"], abs=1e-9)
        reciprocal = other["recip_rank"] if other["recip_rank"] >= 1 / 10 else 0
        assert ours["MRR@10"] == pytest.approx(reciprocal, abs=1e-9)


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
    run = {
        query: {id: float(embed([text], "query")[0] @ embed([other], "document")[0]) for id, other in texts.items()}
        for query, text in queries.items()
    }
    for query in ("a", "b", "c"):
        del run[query][query]  # ignore_identical_ids
        assert query not in found.rankings[query]
        assert len(found.rankings[query]) == 5
    relevance = {query: {d: grade for q, d, grade in judged if q == query} for query in queries}
    theirs = pytrec_eval.RelevanceEvaluator(relevance, {"ndcg_cut.10"}).evaluate(run)
    for query, scores in found.scores.items():
        assert scores["nDCG@10"] == pytest.approx(theirs[query]["ndcg_cut_10"], abs=1e-6)
    assert found.rankings["a"][:3] == ["7", "c", "b"]  # by hand: of cosines 5, 3 and 3 (not of length 1)
    assert found.scores["a"]["nDCG@10"] == pytest.approx(1 / log2(4))
    assert "7" in found.rankings["7"]


def test_the_hundredth_document_takes_the_place_of_the_query_itself(tmp_path: Path) -> None:
    texts = {str(i): "a" * (150 - i) for i in range(150)}
    rows = [("3", str(i), 1) for i in (0, 100, 101)]
    found = evaluate(load_task(write_beir(tmp_path, {"3": texts["3"]}, texts, rows), [], []), embed)
    assert found.rankings["3"] == [str(i) for i in range(101) if i != 3]
    assert found.scores["3"]["Recall@100"] == pytest.approx(2 / 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_spearman_is_scipys_also_for_ties(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    one, other = zip(*pairs, strict=True)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert spearman(one, other) == 0
    else:
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)


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
    assert [document.id for document in task.documents] == ["d1", "d2", "d3"]
    assert [document.id for document in task.documents] == ["d1", "d2", "d3"]  # once more, for the second model


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
    documents = [Document("x", "aaa"), Document("y", "bbb")]
    task = RetrievalTask("t", {"q": "aa", "r": "bb"}, documents, {"q": {"x": 1}, "r": {"y": 1}})
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


def test_similar_sentences_by_hand() -> None:
    task = SimilarityTask("sts:x", ["a", "a", "ab"], ["a", "b", "b"], [5.0, 1.0, 3.0])
    scores = evaluate(task, lambda texts, role: _unit(embed(texts, role))).scores
    assert [item["gold"] for item in scores.values()] == [5, 1, 3]
    assert [item["cosine"] for item in scores.values()] == pytest.approx([1, 1 / 2, 2 / np.sqrt(6)], abs=1e-6)
    assert overall(scores.values()) == {"Spearman": 1.0}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _graded(id: str, positive: str, *negatives: tuple[int, str]) -> GradedTuple:
    return GradedTuple(id, "a", positive, tuple(Negative(text, grade, 0.0, "mined") for grade, text in negatives))


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


def _tuple(query: Any = "a", text: Any = "c", grade: Any = 1) -> str:
    negative = {"text": text, "grade": grade, "score": 0.1, "source": "mined"}
    return json.dumps({"id": "1", "query": query, "positive": "b", "negatives": [negative]})


def test_blank_lines_nan_and_arrays_in_files_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("\n" + _tuple().replace('"id"', '"task": NaN, "group": null, "id"') + "\n\n")
    task = load_task(f"graded:{path}", [], [])
    assert isinstance(task, GradedTask)
    assert (task.tuples[0].task, task.tuples[0].group) == (None, None)
    rows = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (1, 2.5)]
    path.write_text(json.dumps(rows, indent=1))
    task = load_task(f"sts:{path}", [], [])
    assert isinstance(task, SimilarityTask)
    assert task.scores == [1, 2.5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sts", '{"sentence1": "a", "sentence2": "b", "score": "5"}', r"x.jsonl, line 1: \"score\": found '5'"),
        ("sts", '{"sentence1": "a", "sentence2": "b", "score": true}', "wanted a number"),
        ("sts", '{"sentence1": "a", "sentence2": "b", "score": NaN}', "found 'nan'; wanted a number"),
        ("sts", '{"sentence1": "a", "sentence2": "b", "score": 1' + "0" * 400 + "}", "wanted a number"),
        ("sts", '{"sentence1": "a", "sentence2": "b", "score": 1}', "1 different scores; nothing can be ranked"),
        ("sts", '{"sentence1": "a", "score": 1}', "sentence2"),
        ("graded", '{"id": "1", "query": "a", "positive": "b", "negatives": []}', "no tuple has a negative"),
        ("graded", '{"id": "1", "query": "a"}', "is no graded tuple"),
        ("graded", _tuple(query=5), r'line 1: is no graded tuple \("query": found 5; wanted a text\)'),
        ("graded", _tuple(grade=9), '"grade": found 9; wanted 1, 2, 3 or 4'),
        ("graded", _tuple(grade="1"), "\"grade\": found '1'"),
        ("graded", _tuple(text=None), '"text": found None'),
        ("graded", _tuple().replace("0.1", "NaN"), '"score": found nan; wanted a number'),
        ("graded", _tuple().replace('"id"', '"task": 7, "id"'), '"task": found 7; wanted a text'),
        ("graded", _tuple() + "\n" + _tuple(), 'the id "1" appears 2 times'),
    ],
)
def test_a_bad_file_of_a_task_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(DataError, match=message):
        load_task(f"{name}:{path}", [], [])


def test_names_of_tasks(tmp_path: Path) -> None:
    check_names(["held-out", "mteb:SciFact"])
    with pytest.raises(ConfigError, match='"held-out" and "held-out" would both be called held-out'):
        check_names(["held-out", "held-out"])
    files = [tmp_path / name / "dev.jsonl" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    with pytest.raises(ConfigError, match="would both be called sts:dev; leave one out, or rename its file"):
        check_names([f"sts:{file}" for file in files])
    with pytest.raises(DataError, match="is a folder; wanted a file of JSON lines"):
        check_name(f"sts:{tmp_path}")
    with pytest.raises(DataError, match="there is no such file"):
        check_name("sts:nowhere.jsonl")
    with pytest.raises(ConfigError, match=r'found "scifact"; wanted "held-out", beir:FOLDER:SPLIT, sts:FILE'):
        check_name("scifact")


def test_the_published_figure_of_stsb(real_data: Callable[[str], Path]) -> None:
    """A fifth of the pairs of STS-B dev are ranked about as well as all of them (0.867)."""
    task = load_task(f"sts:{real_data('stsb') / 'dev.jsonl'}", [], [])
    assert isinstance(task, SimilarityTask) and len(task.scores) == 1500
    short = SimilarityTask(task.name, task.first[::5], task.second[::5], task.scores[::5])
    model = load_base("embedded", 256)
    found = overall(evaluate(short, lambda texts, role: encode(model, texts, role, "x")).scores.values())
    assert found["Spearman"] == pytest.approx(0.867, abs=0.03)
