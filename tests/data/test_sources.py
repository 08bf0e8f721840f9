import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.data.beir import read_beir_task
from multigrain.data.sources import files_of, read_documents, read_pairs, read_passages
from multigrain.errors import DataError

Write = Callable[[str, list[dict[str, Any]]], Path]


def test_pairs_without_ids_are_named_by_their_line(write_jsonl: Write) -> None:
    pairs = read_pairs(str(write_jsonl("p.jsonl", [{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}])))
    assert [pair.id for pair in pairs] == ["1", "2"]


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([], "holds no pairs"),
        (
            [{"id": "1", "query": "a", "positive": "b"}, {"id": "1", "query": "c", "positive": "b"}],
            'line 2: the id "1" appears a second time',
        ),
        ([{"id": ["x"], "query": "a", "positive": "b"}], r'line 1: field "id" is \["x"\]; wanted a text or'),
        ([{"query": "a", "positive": "b", "source": 3}], 'line 1: field "source" is 3'),
        ([{"query": "a"}], 'line 1: no field "positive"'),
    ],
)
def test_bad_pairs(write_jsonl: Write, objects: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_pairs(str(write_jsonl("pairs.jsonl", objects)))


def test_duplicate_document_ids(write_jsonl: Write) -> None:
    path = write_jsonl("corpus.jsonl", [{"id": "d", "text": "a"}, {"_id": "d", "text": "b"}])
    with pytest.raises(DataError, match='line 2: the id "d" appears a second time'):
        list(read_documents(str(path)))


def test_documents_without_a_text_are_left_out_aloud(write_jsonl: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """A title alone is a text, as in a BEIR folder; a row without the field is an error all the same."""
    texts: list[Any] = ["a", "", " ", None, float("nan")]
    rows = [{"id": str(n), "text": text, "title": None} for n, text in enumerate(texts)]
    path = str(write_jsonl("c.jsonl", [*rows, {"id": "t", "title": "T", "text": None}]))
    assert [(document.id, document.text) for document in read_documents(path)] == [("0", "a"), ("t", "T")]
    assert not capsys.readouterr().err
    assert [text for _, text in read_passages(path, tell=True)] == ["a", ""]
    assert capsys.readouterr().err == f"  {path}: 4 documents have no text and are left out\n"
    with pytest.raises(DataError, match='line 1: no field "text"; fields found: "title", "body"'):
        list(read_documents(str(write_jsonl("d.jsonl", [{"title": "T", "body": "b"}]))))


def test_whole_numbers_that_a_table_made_floats(write_jsonl: Write) -> None:
    """As pandas makes them of a column of whole numbers with an empty cell."""
    rows = [{"id": float(n), "query": f"q{n}", "positive": "p", "group": n or None} for n in (0.0, 1.0)]
    pairs = read_pairs(str(write_jsonl("p.jsonl", rows)))
    assert [(pair.id, pair.group) for pair in pairs] == [("0", None), ("1", "1")]
    (document,) = read_documents(str(write_jsonl("c.jsonl", [{"docid": 7.0, "text": "a", "group": 2.0}])))
    assert (document.id, document.group) == ("7", "2")
    with pytest.raises(DataError, match='field "text" holds many values, as in a table by columns'):
        list(read_documents(str(write_jsonl("c.jsonl", [{"id": {"0": 7}, "text": {"0": "a"}}]))))
    for value in (1.5, float("inf"), 2.0**60):  # above 2^53 several whole numbers become the same float
        with pytest.raises(DataError, match='field "group" is .*; wanted text'):
            read_pairs(str(write_jsonl("p.jsonl", [{"query": "q", "positive": "p", "group": value}])))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    lines = [
        {"_id": "d1", "title": "Cats", "text": "sleep"},
        {"_id": "d2", "text": "Dogs run"},
        {"_id": "d3", "text": ""},
    ]
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(x) + "\n" for x in lines).encode()))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "what do cats do"}\n{"_id": "q2", "text": "dogs"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td2\t0\n")
    return tmp_path


def test_a_beir_folder(beir: Path) -> None:
    task = read_beir_task(beir, "train")
    assert task.queries == {"q1": "what do cats do"}
    assert {document.id: document.text for document in task.documents} == {"d1": "Cats sleep", "d2": "Dogs run"}
    assert task.relevance == {"q1": {"d1": 1, "d2": 0}}
    assert [(p.query, p.positive) for p in read_pairs(f"beir:{beir}:train")] == [("what do cats do", "Cats sleep")]
    assert {path.name for path in files_of(f"beir:{beir}:train")} == {"corpus.jsonl.gz", "queries.jsonl", "train.tsv"}
    assert [path.name for path in files_of(f"beir:{beir}")] == ["corpus.jsonl.gz"]
    assert files_of("beir:nowhere:train") == files_of("python-docs") == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("q9\td1\t1", '1 of 1 judgements name a query or document that is empty or missing, such as query "q9"'),
        ("q1\td9\t1", 'no query has a relevant document; 1 of 1 judgements .* as document "d9"'),
        ("q1\td1\t0.5", "line 2: found .*0.5.* wanted query-id, corpus-id and score"),
        ("q1\td1\tnan", "line 2: found .*nan.* wanted query-id, corpus-id and score"),
        ("q1 d1 1", "line 2: found .* wanted query-id, corpus-id and score"),
        ("q1\td1\t0", r"no query has a relevant document\.$"),
        ("q1\td1\t1\nq1\td1\t0", 'line 3: query "q1" and document "d1" have two grades; wanted one'),
        ("q9\td9\t1\nq9\td9\t0", 'line 3: query "q9" and document "d9" have two grades; wanted one'),
    ],
)
def test_bad_qrels(beir: Path, row: str, expected: str) -> None:
    (beir / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{row}\n")
    with pytest.raises(DataError, match=expected):
        read_beir_task(beir, "train")


@pytest.mark.parametrize(
    "row", ["q9\td1\t1", "q1\td9\t1", "q1\td3\t1", "q2\td3\t1\nq2\td1\t0", "q3\td1\t1", "q5\td1\t1.0"]
)
def test_judgements_of_what_is_not_there_are_left_out_aloud(
    beir: Path, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A query or a document is missing, or empty (d3, q3)."""
    with (beir / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q3", "text": " "}\n{"_id": "q4", "text": null}\n{"_id": "q5", "text": NaN}\n')
    (beir / "qrels" / "train.tsv").write_text(f"q1\td1\t1\n{row}\n")
    task = read_beir_task(beir, "train")
    assert (task.queries, task.relevance) == ({"q1": "what do cats do"}, {"q1": {"d1": 1}})
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "train.tsv: 1 of" in told and "left out" in told
    assert [pair.id for pair in read_pairs(f"beir:{beir}:train")] == ["q1/d1"]


@pytest.mark.parametrize("separator", ["\t", " ", "  "])
def test_trecs_columns_and_scores_below_0(beir: Path, separator: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("q1", "0", "d1", "2"), ("q1", "0", "d2", "-1"), ("q2", "0", "d2", "-2")]
    content = "\ufeff" + "\n\n".join(separator.join(row) for row in rows)
    (beir / "qrels" / "train.tsv").write_text(content, encoding="utf-8")
    assert read_beir_task(beir, "train").relevance == {"q1": {"d1": 2, "d2": -1}}
    assert [pair.id for pair in read_pairs(f"beir:{beir}:train")] == ["q1/d1"]
    assert not capsys.readouterr().err


def test_missing_parts_of_a_beir_folder(beir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Splits found: train"):
        read_pairs(f"beir:{beir}:dev")
    with pytest.raises(DataError, match="no corpus.jsonl"):
        read_pairs(f"beir:{tmp_path / 'qrels'}:train")
    with pytest.raises(DataError, match="wanted beir:FOLDER:SPLIT"):
        read_pairs(f"beir:{beir}")
