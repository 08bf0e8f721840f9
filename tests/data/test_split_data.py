import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config
from multigrain.data.beir import OWN
from multigrain.data.held_out import split_by_source
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.data.split_data import prepare, telling_of
from multigrain.errors import DataError
from multigrain.evaluation.tasks import held_out_task
from multigrain.records import Pair


def config(pairs: Path, **data: Any) -> Config:
    return Config.model_validate({"name": "x", "data": {"pairs": str(pairs), **data}})


Write = Callable[[str, list[dict[str, Any]]], Path]
PAIRS = [{"id": str(i), "query": f"query {i}", "positive": f"answer {i}", "source": "ab"[i % 2]} for i in range(20)]


def test_held_out_sources_have_documents_of_their_own(write_jsonl: Write) -> None:
    split = prepare(config(write_jsonl("pairs.jsonl", PAIRS), held_out=["b"], limit=4))
    assert (len(split.train), len(split.held_out)) == (4, 10)
    assert [d.split for d in split.documents] == ["train"] * 4 + ["held_out"] * 10


def test_positives_must_be_in_the_corpus(write_jsonl: Write) -> None:
    pairs = write_jsonl("pairs.jsonl", PAIRS)
    documents = [{"id": str(i), "text": f"Answer  {i}"} for i in range(19)]
    with pytest.raises(DataError, match=r"positives of 1 pairs are not in the corpus \(first: 19\)"):
        prepare(config(pairs, corpus=str(write_jsonl("corpus.jsonl", documents))))
    documents.append({"id": "x", "title": "Answer", "text": "19"})
    split = prepare(config(pairs, corpus=str(write_jsonl("corpus.jsonl", documents))))
    assert len(split.documents) == 20


def test_the_corpus_has_each_text_once_and_is_read_anew(write_jsonl: Write) -> None:
    pairs = write_jsonl("pairs.jsonl", PAIRS)
    texts = [*(f"Answer  {i}" for i in range(20)), "answer 3", "another", "ANSWER 4", "Another "]
    corpus = write_jsonl("corpus.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    split = prepare(config(pairs, corpus=str(corpus), held_out=0.2))
    held_out = {pair.id for pair in split.held_out}
    assert len(held_out) == 4
    expected = [(str(i), "held_out" if str(i) in held_out else "both") for i in range(20)]
    for _ in range(2):
        assert [(d.id, d.split) for d in split.documents] == [*expected, ("21", "both")]
    assert len(split.documents) == 21


def test_pairs_that_say_nothing_are_no_pairs(write_jsonl: Write) -> None:
    same = [{"id": "1", "query": "the same", "positive": "The  same"}]
    with pytest.raises(DataError, match="no pairs are left"):
        prepare(config(write_jsonl("pairs.jsonl", same)))


def test_pairs_that_say_nothing_are_counted_and_stay_documents(
    write_jsonl: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [{"id": f"s{i}", "query": f"term {i}", "positive": f"Term  {i}", "source": "ab"[i]} for i in range(2)]
    pairs = write_jsonl("pairs.jsonl", [*same, *PAIRS])
    split = prepare(config(pairs, held_out=0.0))
    assert "2 pairs are left out: the positive is the query itself (first: s0)" in capsys.readouterr().err
    assert len(split.train) == len(PAIRS)
    assert sorted(document.id for document in split.documents) == sorted(row["id"] for row in [*same, *PAIRS])
    assert len(split.documents) == len(PAIRS) + 2
    by_id = {document.id: document.split for document in prepare(config(pairs, held_out=["b"])).documents}
    assert (by_id["s0"], by_id["s1"]) == ("train", "held_out")


def test_pairs_whose_positive_is_held_out_with_a_source_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    split_by_source([Pair("1", "q1", "p", "a"), Pair("2", "q2", "p", "b"), Pair("3", "q3", "r", "a")], ["b"])
    assert "1 pairs are not trained on: their positive is held out" in capsys.readouterr().err


TITLED = [{"id": f"d{i}", "title": f"Title {i}", "text": f"answer {i}"} for i in range(20)]


@pytest.mark.parametrize("corpus", ["corpus.jsonl", "beir"])
def test_a_positive_without_its_documents_title_gets_it(
    write_jsonl: Write, tmp_path: Path, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then mining, training and evaluation know it for the document; and given negatives look like it."""
    rows = [dict(row, negatives=[f"answer {(n + 1) % 20}", "no document"]) for n, row in enumerate(PAIRS)]
    rows[0]["positive"] = "title 0 Answer 0"
    rows.append({"id": "again", "query": "another query", "positive": "answer 0", "source": "a"})
    write_jsonl("corpus.jsonl", [{"_id": d["id"], **d} for d in TITLED])
    source = f"beir:{tmp_path}" if corpus == "beir" else str(tmp_path / corpus)
    split = prepare(config(write_jsonl("pairs.jsonl", rows), corpus=source, held_out=0.5))
    assert "have a title in the corpus, which is put before them" in capsys.readouterr().err
    texts = {document.text: document for document in split.documents}
    assert len(split.documents) == len(texts) == 20
    for pair in (pair for pair in (*split.train, *split.held_out) if pair.id != "0"):
        assert pair.positive in texts
    assert {texts[pair.positive].split for pair in split.held_out if pair.id != "0"} == {"held_out"}
    sides = [[pair.id for pair in part if pair.id in ("0", "again")] for part in (split.train, split.held_out)]
    assert [] in sides, "a document's pairs stay on one side, however it was written"
    assert {given.text for given in split.given} == {*texts, "no document"}
    task = held_out_task(split.held_out, split.documents)
    relevant = {id for found in task.relevance.values() for id in found}
    assert relevant == {document.id for document in split.documents if document.split == "held_out"}


def test_a_negative_that_is_the_positive_but_for_the_title(write_jsonl: Write) -> None:
    corpus = write_jsonl("corpus.jsonl", TITLED)
    pairs = write_jsonl("pairs.jsonl", [{"query": "q", "positive": "Title 1 answer 1", "negatives": ["answer 1", "x"]}])
    split = prepare(config(pairs, corpus=str(corpus), held_out=0.0))
    assert [given.text for given in split.given] == ["x"]


def test_documents_that_repeat_a_text_are_counted(write_jsonl: Write, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_jsonl("corpus.jsonl", [{"id": 1, "text": "p"}, {"id": 2, "text": "P "}, {"id": 3, "text": "x"}])
    pairs = write_jsonl("pairs.jsonl", [{"query": "q", "positive": "p"}])
    assert len(prepare(config(pairs, corpus=str(corpus), held_out=0.0)).documents) == 2
    assert "1 documents of the corpus repeat the text of another; each text is read once" in capsys.readouterr().err


def test_real_scifact_splits_by_claim(real_data: Callable[[str], Path]) -> None:
    split = prepare(config(Path(f"beir:{real_data('scifact')}:train"), held_out=0.2))
    assert len(split.train) + len(split.held_out) == 919
    assert len(split.documents) == 5183
    assert not {p.query for p in split.train} & {p.query for p in split.held_out}


def test_of_the_other_pairs_those_stay_that_say_something_of_the_training_pairs() -> None:
    """The others are most of a file that is cut by a limit, and `FalseNegatives` knows the same without them."""
    train = [Pair("1", "Cold hands", "warm gloves", group="wear"), Pair("2", "sore feet", "a bath")]
    other = [
        Pair("3", "cold  HANDS", "hot tea"),
        Pair("4", "dry lips", "balm", group="wear"),
        Pair("5", "deaf ears", "a horn", group="hear"),
        Pair("6", "blind eyes", "a dog"),
        Pair("7", "itchy nose", "itchy nose", OWN),
    ]
    kept = list(telling_of(train, other))
    assert [pair.id for pair in kept] == ["3", "4", "7"]
    texts = [text for pair in (*train, *other) for text in (pair.query, pair.positive)]
    for pair in train:
        rules = [FalseNegatives(train, [*train, *known]).rule(pair, text) for known in (kept, other) for text in texts]
        assert rules[: len(texts)] == rules[len(texts) :]


def test_a_corpus_that_changes_while_it_is_read(write_jsonl: Write) -> None:
    """Found before anything is kept of it; what is written in two goes would not belong together."""
    rows = [{"id": str(i), "text": f"answer {i}"} for i in range(20)]
    corpus = write_jsonl("corpus.jsonl", rows)
    pairs = write_jsonl("pairs.jsonl", PAIRS)
    split = prepare(config(pairs, corpus=str(corpus)))
    assert len(list(split.documents)) == 20
    write_jsonl("corpus.jsonl", [*rows, {"id": "x", "text": "more"}])
    with pytest.raises(DataError, match=r"corpus.jsonl: changed while it was read. Wait until it is written, then run"):
        list(split.documents)
    split = prepare(config(pairs, corpus=str(corpus)))
    corpus.unlink()
    with pytest.raises(DataError, match="corpus.jsonl: cannot be read"):
        list(split.documents)


def test_pairs_lie_in_the_run_folder_without_a_name(write_jsonl: Write, tmp_path: Path) -> None:
    pairs = write_jsonl("pairs.jsonl", PAIRS)
    whole = config(pairs, held_out=0.2).model_copy(update={"output": str(tmp_path)})
    whole.folder.mkdir(parents=True)
    split = prepare(whole)
    pairs.unlink()
    assert len(list(split.train)) == 16 and list(whole.folder.iterdir()) == []


def test_one_positive_twenty_thousand_times(write_jsonl: Write) -> None:
    """Time and memory grow with the pairs alone, however many have one positive."""
    rows = [{"query": f"question {i} of many", "positive": "the same" if i else "another"} for i in range(20_000)]
    started = time.process_time()
    split = prepare(config(write_jsonl("pairs.jsonl", rows), held_out=0.1))
    assert (len(split.train), len(split.held_out), len(split.documents)) == (19_999, 1, 2)
    assert time.process_time() - started < 60
