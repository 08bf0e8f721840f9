"""What the input says of texts, in mining, grading and evaluation."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.config import load_config
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_pairs, read_tuples
from multigrain.data.known_false_negatives import NONE, FalseNegatives, classes_of_pairs, keys_of
from multigrain.data.mined_candidates import read_mined
from multigrain.evaluation.tasks import held_out_task
from multigrain.files import write_json
from multigrain.model.load import load_base
from multigrain.pipeline import freshness, verbs
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.known_false_negatives import false_negatives_of, own_documents
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Candidate, Document, Pair, folded, to_json
from tests.conftest import WORDS

Write = Callable[[str, list[dict[str, Any]]], Path]
letters = st.sampled_from("abcd")
pairs_of_letters = st.lists(st.tuples(letters, letters, st.none() | letters), max_size=12)


@settings(max_examples=40)
@given(pairs_of_letters, pairs_of_letters, st.lists(st.tuples(letters, letters), max_size=4))
def test_equal_to_the_definition(
    asked: list[tuple[str, str, str | None]],
    others: list[tuple[str, str, str | None]],
    grouped: list[tuple[str, str]],
) -> None:
    pairs, more = (
        [Pair(str(i), q, p, group=group and group.upper()) for i, (q, p, group) in enumerate(rows)]
        for rows in (asked, others)
    )
    documents = [Document(str(i), text, group=group.upper()) for i, (text, group) in enumerate(grouped)]
    known, everything = FalseNegatives(pairs, pairs + more, documents), pairs + more
    of_row = [set(row) - {NONE} for row in classes_of_pairs(pairs).tolist()]
    for row, pair in enumerate(pairs):
        answers = {pair.query, *(other.positive for other in everything if other.query == pair.query)}
        own = [other for other in everything if other.group == pair.group is not None]
        group = {text for other in own for text in (other.query, other.positive)}
        group |= {document.text for document in documents if document.group == pair.group}
        for text in "abcd":
            rule = "known positive" if text in answers else "same group" if text in group else None
            assert known.rule(pair, text.upper() + " ") == rule
            places, classes = known.classes_of(keys_of(["x", text]))
            assert set(places.tolist()) <= {1}
            assert bool(of_row[row] & set(classes.tolist())) == (rule is not None)


def test_a_query_of_many_positives_takes_little_memory() -> None:
    """Once a list of all pairs was kept for each positive, which for 4,000 of one query took 129 MB."""
    import tracemalloc

    pairs = [Pair(str(i), "the query", f"answer {i}") for i in range(4000)]
    tracemalloc.start()
    known = FalseNegatives(pairs)
    assert len(known.classes_of(keys_of(pair.positive for pair in pairs))[0]) == 4000
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def many_positives(queries: int, positives: int) -> list[dict[str, Any]]:
    """Each query with texts that look alike to a judge by words."""
    draw = random.Random(2)
    rows = []
    for q in range(queries):
        words = draw.sample(WORDS[8:], 4)
        rows += [
            {"id": f"{q}-{p}", "query": f"where is the {' '.join(words)}", "positive": f"{' '.join(words)} {more} {p}"}
            for p, more in enumerate(draw.sample(WORDS, positives))
        ]
    return rows


def negatives_of(folder: Path) -> list[tuple[str, str]]:
    return [(folded(t.query), folded(n.text)) for t in read_tuples(RunDir(folder).tuples) for n in t.negatives]


def mined_of(run_dir: RunDir) -> list[tuple[Pair, str]]:
    """Pairs with the texts that were mined for them."""
    pairs, mined = list(read_pairs(run_dir.train_pairs)), read_mined(run_dir.mined)
    texts = Corpus(run_dir.corpus).texts(mined.document.tolist())
    return [(pairs[number], text) for number, text in zip(mined.pair.tolist(), texts, strict=True)]


def test_a_pair_that_is_cut_off_answers_its_query_all_the_same(run_toml: Path, write_jsonl: Write) -> None:
    rows = many_positives(20, 4)
    write_jsonl("pairs.jsonl", rows)
    corpus = [{"id": str(i), "text": row["positive"]} for i, row in enumerate(rows)]
    corpus.append({"id": "same", "text": rows[0]["query"].upper()})
    write_jsonl("corpus.jsonl", corpus)
    more = ["data.corpus=corpus.jsonl", "data.limit=20", "synthesis.limit=0", "mining.per_grade=16"]
    config = load_config(run_toml, more)
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    files = [list(read_pairs(path)) for path in run_dir.pair_files()]
    assert len(files) == 4 and not files[2]  # too few for a part that choices are made by
    cut_off = {row["id"] for row in rows} - {p.id for p in files[0] + files[1]}
    trained = {p.query for p in files[0]}
    assert {p.id for p in files[3]} == {row["id"] for row in rows if row["query"] in trained} & cut_off
    assert 5 < len(files[3]) < len(cut_off)
    answers = {(folded(row["query"]), folded(row["positive"])) for row in rows}
    mined = mined_of(run_dir)
    assert len(mined) > 100
    assert not {(folded(pair.query), folded(text)) for pair, text in mined} & answers
    # What another stage proposes is caught in grading.
    query, cut = next((p.id, o.positive) for p in files[0] for o in files[3] if o.query == p.query)
    proposed = Candidate(query, 4, cut.upper(), "llm", "m")
    run_dir.candidates.write_text(json.dumps(to_json(proposed)) + "\n")
    verbs.grade(config)
    assert not set(negatives_of(config.folder)) & answers
    assert '"rule": "known positive"' in run_dir.dropped.read_text()


def test_what_leaks_is_known_too_where_it_is_of_a_trained_group(run_toml: Path, write_jsonl: Write) -> None:
    rows = many_positives(12, 2)
    rows[0]["group"] = rows[1]["group"] = rows[2]["group"] = rows[3]["group"] = "of one topic"
    write_jsonl("pairs.jsonl", [*rows, {"id": "same", "query": "the same", "positive": "The  same"}])
    negative = {"text": "far away", "grade": 1, "score": 0.1, "source": "mined"}
    asked = {"id": "g", "query": rows[0]["query"], "positive": "p", "negatives": [negative]}
    tasks = f'evaluation.tasks=["graded:{write_jsonl("asked.jsonl", [asked])}"]'
    settings = ["data.drop_leaked=true", "data.held_out=0.2", "training.batch_size=2", "synthesis.limit=0"]
    config = load_config(run_toml, [tasks, *settings])
    verbs.synthesize(config)
    other = {pair.id for pair in read_pairs(RunDir(config.folder).other_pairs)}
    train = {pair.id for pair in read_pairs(RunDir(config.folder).train_pairs)}
    assert other == {"0-0", "0-1"}
    assert {"1-0", "1-1"} <= train


def test_other_runs_take_the_file_over(run_toml: Path, write_jsonl: Write) -> None:
    write_jsonl("pairs.jsonl", many_positives(12, 2))
    settings = ["data.limit=8", "synthesis.limit=0"]
    donor, heir = (load_config(run_toml, [*settings, f"name={name}"]) for name in ("donor", "heir"))
    verbs.synthesize(donor)
    run_stages(heir, ["data", "synthesize"], False, donors=[donor.folder])
    files = [RunDir(config.folder).other_pairs for config in (donor, heir)]
    assert files[0].samefile(files[1])
    assert files[0].stat().st_size > 0


def test_a_run_folder_without_the_file_goes_on(run_toml: Path) -> None:
    config = load_config(run_toml, ["synthesis.limit=0"])
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    run_dir.other_pairs.unlink()
    assert freshness.finished(config, run_dir)[0] == "data"
    verbs.synthesize(config)
    assert not run_dir.other_pairs.exists()
    known, pairs = false_negatives_of(run_dir), list(read_pairs(run_dir.train_pairs))
    assert [known.rule(pair, pair.positive) for pair in pairs] == ["known positive"] * 30
    assert own_documents(run_dir) == []


def test_texts_of_a_group_are_no_negatives_of_each_other(run_toml: Path, write_jsonl: Write) -> None:
    """Intents: a query and another sentence of its intent; the rest of the intent is in the corpus, and among pairs."""
    draw = random.Random(1)
    intents = {f"intent {i}": [f"{' '.join(draw.sample(WORDS, 6))} {n}" for n in range(8)] for i in range(10)}
    rows = [
        {"query": texts[n], "positive": texts[n + 1], "source": "one", "label": intent, "negative": texts[(n + 3) % 8]}
        for intent, texts in intents.items()
        for n in range(0, 6, 2)
    ]
    write_jsonl("pairs.jsonl", rows)
    corpus = [
        {"id": f"{intent}{n}", "text": text, **({"group": intent} if n > 5 else {})}
        for intent, texts in intents.items()
        for n, text in enumerate(texts)
    ]
    write_jsonl("corpus.jsonl", corpus)
    config = load_config(run_toml, ["data.corpus=corpus.jsonl", "synthesis.limit=0", "mining.per_grade=16"])
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    group_of = {folded(text): intent for intent, texts in intents.items() for text in texts}
    graded = list(read_tuples(run_dir.tuples))
    assert graded
    assert all(t.group == group_of[folded(t.query)] for t in graded)
    assert all(group_of[folded(n.text)] != t.group for t in graded for n in t.negatives)
    mined = mined_of(run_dir)
    assert len(mined) > 50
    assert all(group_of[folded(text)] != pair.group for pair, text in mined)
    assert '"rule": "same group"' in run_dir.dropped.read_text()  # the given ones


def test_a_query_that_is_a_document_is_no_document_for_itself(
    run_toml: Path, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ArguAna: a query is a document of the corpus, of the same id, and its answer is another document."""
    texts = [row["positive"] for row in many_positives(40, 1)]
    folder = run_toml.parent
    write_jsonl("corpus.jsonl", [{"_id": f"d{i}", "title": "A", "text": text} for i, text in enumerate(texts)])
    write_jsonl("queries.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    (folder / "qrels").mkdir()
    rows = "".join(f"d{i}\td{(i + 1) % 40}\t1\n" for i in range(40))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    more = [f"data.pairs=beir:{folder}:test", "synthesis.limit=0", "mining.per_grade=16"]
    # Of a bound that high nothing is too near.
    config = load_config(run_toml, [*more, "data.held_out=0.3", "grading.false_negative_above=9"])
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    held_out = list(read_pairs(run_dir.held_out_pairs))
    mined = mined_of(run_dir)
    assert len(mined) > 100
    assert not [text for pair, text in mined if text == f"A {pair.query}"]
    task = held_out_task(held_out, Corpus(run_dir.corpus), own_documents(run_dir))
    assert task.own == {pair.id: pair.id.partition("/")[0] for pair in held_out}
    # And a search for the query finds others.
    monkeypatch.setattr("multigrain.pipeline.search.trained_encoder", lambda *_: judge_encoder(config, run_dir))
    monkeypatch.setattr("multigrain.model.load.load_model", lambda _: load_base(config.grading.judge_model))
    write_json(run_dir.model / "modules.json", [])
    found = verbs.search(config.folder, texts[3], 3)
    assert len(found) == 3
    assert f"A {texts[3]}" not in [document.text for _, document in found]
    assert len(verbs.search(config.folder, "another query", 3)) == 3
