import json
from pathlib import Path
from typing import Any

import pytest

from multigrain.errors import ConfigError, DataError
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
from multigrain.records import Document, Pair

PAIRS = [Pair("1", "what is a", "text a"), Pair("2", "what is a", "text A2"), Pair("3", "what is b", "Text  B")]


DOCUMENTS = [
    Document("d1", "text a"),
    Document("d2", "text a2"),
    Document("d3", "text b"),
    Document("d4", "c", "train"),
]


def _tuple(query: Any = "a", text: Any = "c", grade: Any = 1) -> str:
    negative = {"text": text, "grade": grade, "score": 0.1, "source": "mined"}
    return json.dumps({"id": "1", "query": query, "positive": "b", "negatives": [negative]})


def test_queries_that_differ_in_case_alone_are_one_query() -> None:
    pairs = [Pair("a", "Which cat?", "red"), Pair("b", "which  CAT?", "blue"), Pair("c", "which dog?", "green")]
    task = held_out_task(pairs, [Document(text, text) for text in ("red", "blue", "green")])
    assert task.queries == {"a": "Which cat?", "c": "which dog?"}
    assert task.relevance == {"a": {"red": 1, "blue": 1}, "c": {"green": 1}}


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
    assert list(without_queries_of(task, [Pair("x", "What  is A", "other"), other])) == [other]


def test_held_out_without_held_out_pairs() -> None:
    with pytest.raises(DataError, match="raise data.held_out"):
        load_task("held-out", [], DOCUMENTS)


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
        ("graded", '{"id": "1", "query": "a"}', "is not a graded tuple"),
        ("graded", _tuple(query=5), r'line 1: is not a graded tuple \("query": found 5; wanted a text\)'),
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
