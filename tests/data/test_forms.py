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

from multigrain.data.sources import files_of, read_documents, read_pairs, read_source
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


def test_instructions_and_tasks_come_along(write_jsonl: Write) -> None:
    flag = write_jsonl("f.jsonl", [{"query": "q", "pos": ["p"], "neg": ["a"], "prompt": "Find: "}])
    (pair,) = read_pairs(str(flag))
    assert pair.instruction == "Find: "
    own = write_jsonl("o.jsonl", [{"query": "q", "positive": "p", "instruction": "Find: ", "task": "t", "source": "s"}])
    (pair,) = read_pairs(str(own))
    assert (pair.instruction, pair.task, pair.source) == ("Find: ", "t", "s")


def test_half_surrogates_do_not_stop_a_run(write_jsonl: Write) -> None:
    """JSON can hold them as escapes, UTF-8 and parquet cannot."""
    rows = [{"query": "q \ud800", "positive": "p", "negative": "\udfff a"}]
    assert read(write_jsonl("p.jsonl", rows)) == ([("1", "q ?", "p")], mined("1", "? a"))


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
    DatasetDict({"test": other}).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == ([("1", "w", "z")], [])
    DatasetDict({"dev": train, "test": other}).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="splits found: dev, test; give the folder of one"):
        read(tmp_path / "none")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    train.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    other.to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    assert read(tmp_path / "hub") == (ONE, [])
    assert [path.name for path in files_of(str(tmp_path / "hub"))] == ["train-00000-of-00001.parquet"]


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
        'line 1: field "positive_passages" is no list of passages',
    ),
    "empty passages": (
        [{"query": "q", "positive_passages": [], "negative_passages": []}],
        'line 1: field "positive_passages" is empty',
    ),
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
        with pytest.raises(DataError, match=f"{name}: (is not a whole|cannot be read)"):
            read(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read: No such file"):
            read(tmp_path / f"absent-{name}")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder without rows; wanted parquet files"):
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
        ({"label": 3}, "wanted 1 .positive. or 0 .negative.. If it names a class of texts, call the field group"),
        ({"label": "3"}, "call the field group"),
        ({"label": 0.7}, "call the field group"),
        ({"group": ["a", "b"]}, 'field "group" is .*; wanted text'),
        ({"group": True}, 'field "group" is true; wanted text'),
    ],
)
def test_bad_groups(write_jsonl: Write, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_pairs(str(write_jsonl("p.jsonl", [{"query": "a", "positive": "b", **fields}])))


def test_the_group_of_rows_with_labels_is_that_of_a_positive(write_jsonl: Write) -> None:
    rows = [("no", 0, "other"), ("yes", 1, "own"), ("also", 1, "third")]
    lines = [{"query": "q", "text": text, "label": label, "group": group} for text, label, group in rows]
    assert {pair.group for pair in read_pairs(str(write_jsonl("p.jsonl", lines)))} == {"own"}
