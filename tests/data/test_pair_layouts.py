"""Each form that others keep pairs and negatives in, as they write it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from multigrain.config import Config
from multigrain.data.sources import read_documents, read_pairs, read_source
from multigrain.data.split_data import prepare
from multigrain.errors import DataError

Write = Callable[[str, list[dict[str, Any]]], Path]


def passage(id: str, text: str, title: str = "") -> dict[str, str]:
    return {"docid": id, "title": title, "text": text}


def read(path: Path) -> tuple[list[tuple[str, str, str]], list[tuple[str, int, str, str]]]:
    source = read_source(str(path))
    pairs = [(pair.id, pair.query, pair.positive) for pair in source.pairs]
    return pairs, [(c.pair_id, c.grade, c.text, c.source) for c in source.given]


def mined(id: str, *texts: str) -> list[tuple[str, int, str, str]]:
    return [(id, 4, text, "mined") for text in texts]


ONE = [("1", "q", "p")]
FORMS: dict[str, tuple[list[dict[str, Any]], Any, Any]] = {
    "pairs": ([{"id": "x", "query": "q", "positive": "p"}], [("x", "q", "p")], []),
    "pairs with a column called pos": ([{"query": "q", "positive": "p", "pos": "noun"}], ONE, []),
    "questions": ([{"question": "q", "answer": "p"}], ONE, []),
    "tuples": (
        [
            {
                "id": "t7",
                "query": "q",
                "positive": "p",
                "negatives": [
                    {"text": "easy", "grade": 1, "score": 0.1, "source": "llm"},
                    {"text": "hard", "grade": 3, "score": 0.8, "source": "mined"},
                ],
            }
        ],
        [("t7", "q", "p")],
        [("t7", 1, "easy", "llm"), ("t7", 3, "hard", "mined")],
    ),
    "FlagEmbedding": (
        [{"query": "q", "pos": ["p", "r"], "neg": ["a", "b"], "pos_scores": [9, 8], "neg_scores": [1, 2]}],
        [("1/0", "q", "p"), ("1/1", "q", "r")],
        mined("1/0", "a", "b") + mined("1/1", "a", "b"),
    ),
    "Tevatron": (
        [
            {
                "query_id": "q1",
                "query": "q",
                "positive_passages": [passage("d1", "p")],
                "negative_passages": [passage("d3", "a", "Title")],
            },
            {
                "query_id": 2,
                "query": "w",
                "positive_passages": [passage("d1", "p"), passage("d2", "r")],
                "negative_passages": [],
            },
        ],
        [("q1", "q", "p"), ("2/d1", "w", "p"), ("2/d2", "w", "r")],
        mined("q1", "Title a"),
    ),
    "triplets": (
        [
            {"query": "q", "positive": "p", "negative": "a"},
            {"query": "q", "positive": "p", "negative": "b"},
            {"query": "q", "positive": "p", "negative": "A "},
            {"query": "w", "positive": "p", "negative": "a"},
        ],
        [("1", "q", "p"), ("4", "w", "p")],
        mined("1", "a", "b") + mined("4", "a"),
    ),
    "lists": (
        [{"query": "q", "positive": "p", "positives": ["p"], "negatives": ["a", "", None, "b"]}],
        ONE,
        mined("1", "a", "b"),
    ),
    "E5": (
        [{"user_query": "q", "positive_document": "p", "hard_negative_document": "a"}],
        ONE,
        mined("1", "a"),
    ),
    "columns with an empty cell": (
        [{"anchor": "q", "positive": "p", "negative_1": "a", "negative_2": None}],
        ONE,
        mined("1", "a"),
    ),
    "columns under names of their own": (
        [{"claim": "q", "evidence": "p", "negative_1": "a", "negative_2": "b", "scores": [0.9, 0.5, 0.4]}],
        ONE,
        mined("1", "a", "b"),
    ),
    "a positive of the same query among the negatives": (
        [
            {"anchor": "q", "positive": "p", "negative_1": "R", "negative_2": "a"},
            {"anchor": "q", "positive": "r", "negative_1": "p", "negative_2": "a"},
            {"anchor": "w", "positive": "a", "negative_1": "p"},
        ],
        [("1", "q", "p"), ("2", "q", "r"), ("3", "w", "a")],
        mined("1", "a") + mined("2", "a") + mined("3", "p"),
    ),
    "labels, a query's rows apart": (
        [
            {"sentence1": "q", "sentence2": "a", "label": 0},
            {"sentence1": "w", "sentence2": "z", "label": 1},
            {"sentence1": "q", "sentence2": "p", "label": 1},
            {"sentence1": "q", "sentence2": "p", "label": 1},
        ],
        [("1", "q", "p"), ("2", "w", "z")],
        mined("1", "a"),
    ),
    "FlagEmbedding with one positive": (
        [{"query": "q", "pos": "p", "neg": ["a"]}, {"query": "w", "pos": "p", "neg": ["b"]}],
        [("1", "q", "p"), ("2", "w", "p")],
        mined("1", "a") + mined("2", "b"),
    ),
    "FlagEmbedding with one positive alone": ([{"query": "q", "pos": "p", "prompt": "Find: "}], ONE, []),
    "an id in several rows": (
        [
            {"query_id": "x", "query": "q", "positive": "p"},
            {"query_id": "x", "query": "q", "positive": "r"},
            {"query_id": "y", "query": "w", "positive": "p"},
            {"query_id": "x", "query": "q", "positive": "s"},
            {"query_id": "x", "query": "q", "positive": "r"},
        ],
        [("x", "q", "p"), ("x/1", "q", "r"), ("y", "w", "p"), ("x/2", "q", "s")],
        [],
    ),
    "an id in several triplets": (
        [
            {"id": "x", "query": "q", "positive": "p", "negative": "a"},
            {"id": "x", "query": "q", "positive": "r", "negative": "a"},
            {"id": "x", "query": "q", "positive": "p", "negative": "b"},
            {"id": "x", "query": "q", "positive": "r", "negative": None},
        ],
        [("x", "q", "p"), ("x/1", "q", "r")],
        mined("x", "a") + mined("x/1", "a") + mined("x", "b"),
    ),
    "an id in several rows of FlagEmbedding": (
        [
            {"id": "x", "query": "q", "pos": ["p", "r"], "neg": []},
            {"id": "x", "query": "q", "pos": ["s", "t"], "neg": []},
            {"id": "x", "query": "q", "pos": ["u"], "neg": []},
        ],
        [("x/0", "q", "p"), ("x/1", "q", "r"), ("x/2", "q", "s"), ("x/3", "q", "t"), ("x", "q", "u")],
        [],
    ),
    "an id in several rows of Tevatron": (
        [
            {"query_id": "x", "query": "q", "positive_passages": [passage("d1", "p")], "negative_passages": []},
            {"query_id": "x", "query": "q", "positive_passages": [passage("d2", "r")], "negative_passages": []},
        ],
        [("x", "q", "p"), ("x/1", "q", "r")],
        [],
    ),
    "lists of labels": ([{"query": "q", "answer": ["a", "p"], "labels": [0, 1]}], ONE, mined("1", "a")),
    "lists of scores": ([{"anchor": "q", "positive": ["p", "a"], "scores": [0.3, 0.5]}], ONE, mined("1", "a")),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_forms(write_jsonl: Write, tmp_path: Path, name: str, kind: str) -> None:
    rows, pairs, negatives = FORMS[name]
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        if name == "Tevatron":
            rows = [{**row, "query_id": str(row["query_id"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        content = write_jsonl("data.jsonl", rows).read_bytes()
        path.write_bytes(gzip.compress(content) if kind == "jsonl.gz" else content)
    assert read(path) == (pairs, negatives)


def test_texts_and_lists_of_texts_in_one_column(write_jsonl: Write) -> None:
    rows: list[dict[str, Any]] = [{"query": "q", "pos": "p", "neg": "a"}, {"query": "w", "pos": ["p"], "neg": ["b"]}]
    assert read(write_jsonl("p.jsonl", rows))[1] == mined("1", "a") + mined("2", "b")


def test_instructions_and_tasks_come_along(write_jsonl: Write) -> None:
    flag = write_jsonl("f.jsonl", [{"query": "q", "pos": ["p"], "neg": ["a"], "prompt": "Find: "}])
    (pair,) = read_pairs(str(flag))
    assert pair.instruction == "Find: "
    own = write_jsonl("o.jsonl", [{"query": "q", "positive": "p", "instruction": "Find: ", "task": "t", "source": "s"}])
    (pair,) = read_pairs(str(own))
    assert (pair.instruction, pair.task, pair.source) == ("Find: ", "t", "s")


NAN = float("nan")
NOTHING: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "columns": ({"query": "q", "positive": "p", "negative": "a"}, "p", ["a"]),
    "lists": ({"query": "q", "positive": "p", "negatives": [NAN, "a", None, " "]}, "p", ["a"]),
    "dicts": ({"query": "q", "positive": "p", "negatives": [{"text": "a", "grade": NAN, "source": NAN}]}, "p", ["a"]),
    "blank dicts": (
        {"query": "q", "positive": "p", "negatives": [{"text": NAN, "grade": 1.0}, {"text": "a", "grade": 4.0}]},
        "p",
        ["a"],
    ),
    "FlagEmbedding": ({"query": "q", "pos": ["p"], "neg": NAN, "prompt": NAN}, "p", []),
    "Tevatron": (
        {
            "query": "q",
            "positive_passages": [{"docid": NAN, "title": NAN, "text": "p"}],
            "negative_passages": [
                {"title": None, "text": "a"},
                {"title": "T", "text": NAN},
                {"title": "T", "text": "b"},
            ],
        },
        "p",
        ["a", "T b"],
    ),
    "Tevatron without negatives": (
        {"query": "q", "positive_passages": [{"title": "T", "text": "p"}], "negative_passages": NAN},
        "T p",
        [],
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nan_is_nothing(write_jsonl: Write, name: str) -> None:
    """It is what a data frame has in an empty cell, and what `json.dumps` makes of it."""
    row, positive, negatives = NOTHING[name]
    nothing = dict.fromkeys(("id", "query_id", "source", "instruction", "task"), NAN)
    source = read_source(str(write_jsonl("p.jsonl", [row | nothing])))
    (pair,) = source.pairs
    assert (pair.id, pair.positive, pair.source, pair.instruction, pair.task) == ("1", positive, None, None, None)
    assert [candidate.text for candidate in source.given] == negatives


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "beir"])
def test_titles_that_are_nan_or_no_text(tmp_path: Path, write_jsonl: Write, kind: str) -> None:
    name = "corpus.parquet" if kind == "parquet" else "corpus.jsonl"
    source = f"beir:{tmp_path}" if kind == "beir" else str(tmp_path / name)

    def texts(*titles: Any) -> list[str]:
        rows = [{"_id": str(n), "title": title, "text": f"text {n}"} for n, title in enumerate(titles)]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        else:
            write_jsonl(name, rows)
        return [document.text for document in read_documents(source)]

    assert texts(NAN, None) == ["text 0", "text 1"]
    for title in (7, 0.0, ["A"], [], True, float("inf")):
        with pytest.raises(DataError, match=r"corpus.*(line|row) 1: field \"title\" is .*; wanted text"):
            texts(title)


def test_half_surrogates_do_not_stop_a_run(write_jsonl: Write) -> None:
    """JSON can hold them as escapes, UTF-8 and parquet cannot."""
    rows = [{"query": "q \ud800", "positive": "p", "negative": "\udfff a"}]
    assert read(write_jsonl("p.jsonl", rows)) == ([("1", "q ?", "p")], mined("1", "? a"))


def test_rows_that_are_left_out_are_counted(write_jsonl: Write, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "x", "query": "q", "positive": "p", "negatives": ["", "a", "P "]},
        {"id": "x", "query": "Q", "positive": "r", "negatives": ["A", "a"]},
    ]
    rows[1]["query"] = "q"
    assert read(write_jsonl("p.jsonl", rows))[1] == mined("x", "a") + mined("x/1", "A")
    told = "  given negatives left out: 1 blank, 1 positive of the same query, 1 repeated\n"
    assert capsys.readouterr().err == told
    read(write_jsonl("q.jsonl", [{"id": "x", "query": "q", "positive": "p"}] * 3))
    assert capsys.readouterr().err == "  2 positives appear a second time under their query's id; each is read once\n"


BUNDLES: dict[str, dict[str, Any]] = {
    "lists": {"relevant_docs": {"1": ["a", "c"], "2": [3]}},
    "grades": {"qrels": {"1": {"a": 2, "c": 1, "b": 0}, "2": {"3": 1}}},
    "floats": {"qrels": {"1": {"a": 2.0, "c": 1.0}, "2": {"3": 1.0}}},
    "one": {"relevant_docs": {"1": ["a", "c"], "2": 3, "9": ["a"], "1 ": ["z"]}},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", BUNDLES)
def test_queries_corpus_and_judgements_in_one_object(tmp_path: Path, name: str, indent: int | None) -> None:
    corpus = {"a": "text a", "b": {"title": None, "text": "b"}, "c": {"title": "T", "text": "c"}, "3": "d", "e": ""}
    path = tmp_path / "data.json"
    queries = {"1": "q", "2": "w", "7": "not asked"}
    path.write_text(json.dumps({"queries": queries, "corpus": corpus, **BUNDLES[name]}, indent=indent))
    assert read(path) == ([("1/a", "q", "text a"), ("1/c", "q", "T c"), ("2/3", "w", "d")], [])
    assert [document.text for document in read_documents(str(path))] == ["text a", "b", "T c", "d"]
    config = Config.model_validate({"name": "x", "data": {"pairs": str(path), "held_out": 0.0}})
    assert len(prepare(config).documents) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": {"1": 7}}, 'queries: field "1" is 7; wanted text'),
        ({"corpus": {"a": ["text"]}}, 'document "a": field "text" is .*; wanted text'),
        ({"relevant_docs": {"1": [["a"]]}}, r'"relevant_docs" of query "1" is \[\["a"\]\]; wanted a list of doc'),
        ({"relevant_docs": {"1": {"a": 0.5}}}, "wanted a list of document ids, or whole numbers by document id"),
        ({"relevant_docs": {"1": ["b"]}}, 'no query has a relevant document; 1 of 1 judgements .* document "b"'),
    ],
)
def test_bad_bundles(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    good = {"queries": {"1": "q"}, "corpus": {"a": "text"}, "relevant_docs": {"1": ["a"]}}
    (tmp_path / "data.json").write_text(json.dumps(good | fields))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "data.json")


def test_queries_without_a_positive_are_left_out_aloud(write_jsonl: Write, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"anchor": "q", "positive": "p", "label": 1}, {"anchor": "w", "positive": "p", "label": 0}]
    assert read(write_jsonl("p.jsonl", rows)) == (ONE, [])
    assert "1 queries have no positive" in capsys.readouterr().err


# What the host itself writes.

CORPUS = [
    "the cat sleeps on the table",
    "the dog runs under the tree",
    "a bird sings in the garden",
    "fish in the river",
]
QUERIES = ["where is the cat", "where is the dog", "who sings", "who swims in the river"]


@pytest.fixture(scope="module")
def host_data(tiny_encoder: Path) -> Callable[..., Dataset]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    dataset = Dataset.from_dict({"query": QUERIES, "answer": CORPUS})
    return lambda **options: mine_hard_negatives(dataset, model, num_negatives=2, verbose=False, **options)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("output_format", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
def test_mine_hard_negatives(
    host_data: Callable[..., Dataset], tmp_path: Path, output_format: str, scores: bool
) -> None:
    dataset = host_data(output_format=output_format, output_scores=scores)
    dataset.to_parquet(tmp_path / "mined.parquet")
    dataset.to_json(tmp_path / "mined.jsonl")
    dataset.save_to_disk(tmp_path / "mined", num_shards=3)
    if scores and output_format == "labeled-pair":
        with pytest.raises(DataError, match="a score without a label does not say which texts are positives"):
            read(tmp_path / "mined.parquet")
        return
    pairs, negatives = read(tmp_path / "mined.parquet")
    assert [(query, positive) for _, query, positive in pairs] == list(zip(QUERIES, CORPUS, strict=True))
    of = {id: (query, positive) for id, query, positive in pairs}
    assert len(negatives) == 2 * len(QUERIES)
    assert all(text in CORPUS and text != of[id][1] for id, _, text, _ in negatives)
    assert read(tmp_path / "mined.jsonl") == read(tmp_path / "mined") == (pairs, negatives)


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    train = Dataset.from_dict({"query": ["q"], "positive": ["p"]})
    other = Dataset.from_dict({"query": ["w"], "positive": ["z"]})
    DatasetDict({"train": train, "test": other}).save_to_disk(tmp_path / "both")
    assert read(tmp_path / "both") == (ONE, [])
    DatasetDict({"training": train, "test": other}).save_to_disk(tmp_path / "training")
    assert read(tmp_path / "training") == (ONE, [])
    DatasetDict({"dev": train, "test": other}).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="no split for training; splits found: dev, test. Give the path"):
        read(tmp_path / "none")
    assert read(tmp_path / "none" / "test") == ([("1", "w", "z")], [])


def test_a_folder_of_json_lines_and_a_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"query": "q", "positive": "p"}\n')
    (tmp_path / "test.jsonl").write_text('{"query": "w", "positive": "z"}\n')
    assert read(tmp_path) == (ONE, [])
    assert read(tmp_path / "test.jsonl") == ([("1", "w", "z")], [])
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "train.csv").write_text("query,positive\n")
    with pytest.raises(DataError, match="train.csv: a .csv file; wanted JSON lines. Convert it: python -c"):
        read(tmp_path / "table")


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown fields": ([{"text": "a"}], 'line 1: no known form; fields found: "text".*known forms.*Tevatron'),
    "no positive": ([{"query": "q", "neg": ["a"]}], 'line 1: no field "positive"'),
    "two forms": (
        [{"query": "q", "positive": "p", "pos": ["p"], "neg": ["a"]}],
        "line 1: fields of several forms; fields found",
    ),
    "another form later": (
        [{"query": "q", "pos": ["p"], "neg": []}, {"query": "q", "positive": "p"}],
        'line 2: no field "pos"; fields found: "query", "positive"',
    ),
    "no list": ([{"query": "q", "pos": ["p"]}, {"query": "q", "pos": [3]}], 'line 2: field "pos" is 3'),
    "no positive in the list": ([{"query": "q", "pos": [], "neg": ["a"]}], 'line 1: field "pos" is empty'),
    "no passages": (
        [{"query": "q", "positive_passages": ["p"], "negative_passages": []}],
        'line 1: field "positive_passages" is not a list of passages',
    ),
    "empty passages": (
        [{"query": "q", "positive_passages": [], "negative_passages": []}],
        'line 1: field "positive_passages" is empty',
    ),
    "a passage without text": (
        [{"query": "q", "positive_passages": [{"docid": "d", "title": "T", "text": float("nan")}]}],
        'line 1: field "positive_passages" is empty, or a passage in it has no text',
    ),
    "a title of another type": (
        [{"query": "q", "positive_passages": [{"title": ["A"], "text": "p"}], "negative_passages": []}],
        r'line 1: field "title" is \["A"\]; wanted text',
    ),
    "an id of another type": (
        [{"query": "q", "positive_passages": [{"docid": 1.5, "text": "p"}], "negative_passages": []}],
        r'line 1: field "docid" is 1.5; wanted a text or a whole number',
    ),
    "a text of NaN": ([{"query": "q", "positive": float("nan")}], 'line 1: field "positive" is NaN; wanted text'),
    "a source of infinity": (
        [{"query": "q", "positive": "p", "source": float("inf")}],
        'line 1: field "source" is Infinity; wanted text',
    ),
    "an empty list as task": ([{"query": "q", "positive": "p", "task": []}], r'line 1: field "task" is \[\]; wanted'),
    "a grade of 0": (
        [{"query": "q", "positive": "p", "negatives": [{"text": "a", "grade": 0}]}],
        'field "negatives" holds the grade 0; wanted 1',
    ),
    "rows in a field": (
        [{"version": 1, "data": [{"query": "q"}]}],
        'one object with its rows in "data"; give the list',
    ),
    "a table as columns": (
        [{"query": ["q", "w"], "positive": ["p", "r"]}],
        'line 1: field "query" holds many values, as in a table by columns; wanted .* orient="records", lines',
    ),
    "a table as columns with an index": (
        [{"query": {"0": "q"}, "pos": {"0": "p"}}],
        "line 1: a table in one object; wanted .* orient=",
    ),
    "a table by rows": ([{"0": {"query": "q", "positive": "p"}}], "line 1: a table in one object; wanted .* orient="),
    "a table in parts": (
        [{"columns": ["query"], "index": [0], "data": [["q"]]}],
        "line 1: a table in one object; wanted .* orient=",
    ),
    "many fields": ([{str(n): "text" for n in range(500)}], '"19" and 480 more.\nknown forms'),
    "a label of entailment": ([{"anchor": "q", "positive": "p", "label": 2}], 'field "label" holds 2; wanted 1'),
    "labels too few": ([{"anchor": "q", "positive": ["p", "a"], "labels": [1]}], "2 texts and 1 labels"),
    "a grade of no negative": (
        [{"query": "q", "positive": "p", "negatives": [{"text": "a", "grade": 9}]}],
        'field "negatives" holds the grade 9; wanted 1',
    ),
    "a source nobody knows": (
        [{"query": "q", "positive": "p", "negatives": [{"text": "a", "source": "me"}]}],
        "holds the source 'me'; wanted llm or mined",
    ),
    "a negative without text": ([{"query": "q", "positive": "p", "negatives": [{"grade": 1}]}], "wanted text"),
    "an id twice": (
        [{"id": 1, "query": "q", "positive": "p", "negative": "a"}, {"id": 1, "query": "w", "positive": "p"}],
        'line 2: the id "1" appears a second time',
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows(write_jsonl: Write, name: str) -> None:
    rows, expected = BAD[name]
    with pytest.raises(DataError, match=f"(?s){expected}"):
        read(write_jsonl("data.jsonl", rows))


def test_bad_files(tmp_path: Path) -> None:
    for name in ("cut.parquet", "cut.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 and nothing more")
        with pytest.raises(DataError, match=f"{name}: (is not a complete|cannot be read)"):
            read(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read: No such file"):
            read(tmp_path / f"absent-{name}")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder without rows; wanted Parquet or JSON-lines files"):
        read(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("")
    with pytest.raises(DataError, match=r"write beir:.*:SPLIT \(splits found: test\)"):
        read(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state.json: damaged .* Save the dataset again"):
        read(tmp_path)
    pq.write_table(pa.Table.from_pylist([{"query": "q", "positive": "p"}, {"query": "q"}]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match='x.parquet, row 2: field "positive" is null'):
        read(tmp_path / "x.parquet")


def test_a_corpus_of_passages(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([passage("d1", "text", "Title"), passage("d2", "more")]), tmp_path / "c.parquet"
    )
    documents = read_documents(str(tmp_path / "c.parquet"))
    assert [(d.id, d.text) for d in documents] == [("d1", "Title text"), ("d2", "more")]


def test_real_flagembedding_examples(real_data: Callable[[str], Path]) -> None:
    for name, least in (("nq.jsonl", 970), ("msmarco.jsonl", 250)):
        path = real_data("bge_examples") / name
        pairs, negatives = read(path)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [query for _, query, _ in pairs] == [line["query"] for line in lines]
        # Some texts stand twice among the negatives of a query.
        assert least <= len(negatives) <= sum(len(line["negatives"]) for line in lines)
        assert {text for _, _, text, _ in negatives} <= {text.strip() for line in lines for text in line["negatives"]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"group": "card lost"}, "card lost"),
        ({"group": 17}, "17"),
        ({"group": None}, None),
        ({"group": float("nan")}, None),
        ({"group": " "}, None),
        ({}, None),
        ({"label": "card_lost"}, "card_lost"),
        ({"labels": "card_lost"}, "card_lost"),
        ({"label": "card_lost", "group": "b"}, "b"),
        ({"label": 1, "group": "b"}, "b"),
        ({"source": "card_lost"}, None),
    ],
)
def test_groups(write_jsonl: Write, fields: dict[str, Any], expected: str | None) -> None:
    """A label that is no 1 or 0 but a name is a group; a number other than these may be a score, and is an error."""
    (pair,) = read_pairs(str(write_jsonl("p.jsonl", [{"query": "a", "positive": "b", **fields}])))
    assert pair.group == expected
    (document,) = read_documents(str(write_jsonl("c.jsonl", [{"text": "a", **fields}])))
    assert document.group == (None if fields == {"label": 1} else expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"label": 3}, "wanted 1 .positive. or 0 .negative.. If it names a class of texts, rename the field to group"),
        ({"label": "3"}, "rename the field to group"),
        ({"label": 0.7}, "rename the field to group"),
        ({"group": ["a", "b"]}, 'field "group" is .*; wanted text'),
        ({"group": True}, 'field "group" is true; wanted text'),
    ],
)
def test_bad_groups(write_jsonl: Write, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_pairs(str(write_jsonl("p.jsonl", [{"query": "a", "positive": "b", **fields}])))


@pytest.mark.parametrize("empty", [None, float("nan"), " "])
def test_a_class_whose_first_rows_are_empty(write_jsonl: Write, empty: Any) -> None:
    """The first row that has a label tells what labels are; where none has one, they are nothing."""

    def groups(*labels: Any) -> list[str | None]:
        rows = [{"query": f"q{n}", "positive": "p", "label": label} for n, label in enumerate(labels)]
        return [pair.group for pair in read_pairs(str(write_jsonl("p.jsonl", rows)))]

    assert groups(empty, empty, "card lost", empty) == [None, None, "card lost", None]
    assert groups(empty, empty) == [None, None]
    for labels in ([empty, 1, 0], [1, empty]):
        with pytest.raises(DataError, match='field "label" holds .*; wanted 1'):
            groups(*labels)


def test_the_group_of_rows_with_labels_is_that_of_a_positive(write_jsonl: Write) -> None:
    rows = [("no", 0, "other"), ("yes", 1, "own"), ("also", 1, "third")]
    lines = [{"query": "q", "text": text, "label": label, "group": group} for text, label, group in rows]
    assert {pair.group for pair in read_pairs(str(write_jsonl("p.jsonl", lines)))} == {"own"}


@pytest.mark.parametrize("instruction", ["two\nlines", "  "])
@pytest.mark.parametrize("form", ["pairs", "flagembedding"])
def test_an_instruction_is_one_line(write_jsonl: Write, form: str, instruction: str) -> None:
    """The message names file and line; an empty field is no instruction, as in the files that we export."""
    good: dict[str, Any] = {"query": "q", "positive": "p", "instruction": ""}
    bad: dict[str, Any] = {"query": "r", "positive": "s", "instruction": instruction}
    if form == "flagembedding":
        good = {"query": "q", "pos": ["p"], "neg": ["n"], "prompt": ""}
        bad = {"query": "r", "pos": ["s"], "neg": ["n"], "prompt": instruction}
    assert next(iter(read_pairs(str(write_jsonl("good.jsonl", [good]))))).instruction is None
    with pytest.raises(DataError, match=r"bad.jsonl.*2.*field \"(instruction|prompt)\": found .*wanted one line"):
        list(read_pairs(str(write_jsonl("bad.jsonl", [good, bad]))))
