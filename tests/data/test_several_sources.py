"""Several sources in one run: what each record says of its source, and how they are split and joined."""

import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from multigrain.config import Config, load_config
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.data.split_data import SplitData, prepare, usable_negatives
from multigrain.errors import ConfigError, DataError
from multigrain.pipeline.run_dir import to_toml
from multigrain.pipeline.stages.data import fit, read_data
from multigrain.records import GradedTuple, identity
from multigrain.training.in_batch_false_negatives import known_false_negatives

Write = Callable[[str, list[dict[str, Any]]], Path]


def rows(prefix: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """Pairs with ids that other sources have too."""
    return [
        {"id": str(i), "query": f"{prefix} query {i}", "positive": f"{prefix} answer {i}", **more} for i in range(count)
    ]


def config(*sources: dict[str, Any], **data: Any) -> Config:
    return Config.model_validate({"name": "x", "data": {"sources": list(sources), **data}})


def source(name: str, pairs: Path, **more: Any) -> dict[str, Any]:
    return {"name": name, "pairs": str(pairs), **more}


def test_records_name_their_source_and_no_two_share_an_id(write_jsonl: Write) -> None:
    plain = write_jsonl("a.jsonl", rows("red", 10))
    told = write_jsonl("b.jsonl", rows("blue", 10, instruction="its own", source="elsewhere", group="g"))
    one = source("one", plain, instruction="Find the answer", task="retrieval")
    two = source("two", told, instruction="Find the answer")
    split = prepare(config(one, two, held_out=0.0))
    assert [pair.id for pair in split.train] == [f"one/{i}" for i in range(10)] + [f"two/{i}" for i in range(10)]
    assert Counter((p.source, p.instruction, p.task, p.group) for p in split.train) == {
        ("one", "Find the answer", "retrieval", None): 10,
        ("two", "its own", None, "two/g"): 10,
    }
    assert [(d.id, d.sources) for d in split.documents][9:11] == [("one/9", ["one"]), ("two/0", ["two"])]
    assert len(split.documents) == len(list(split.documents)) == 20


def test_a_text_of_two_corpora_is_one_document_of_both_sources(write_jsonl: Write) -> None:
    pairs = [write_jsonl(f"{name}.jsonl", rows(name, 4)) for name in ("red", "blue")]
    answers = [[{"id": str(i), "text": f"{name} answer {i}"} for i in range(4)] for name in ("red", "blue")]
    shared = [{"id": "9", "text": "In both"}, {"id": "8", "text": "in  BOTH"}]
    corpora = [write_jsonl(f"{i}.jsonl", [*answers[i], *shared]) for i in range(2)]
    split = prepare(
        config(*(source(f"s{i}", pairs[i], corpus=str(corpora[i])) for i in range(2)), held_out=0.0),
    )
    documents = {document.id: document.sources for document in split.documents}
    own = {f"s{i}/{n}": [f"s{i}"] for i in range(2) for n in range(4)}
    assert documents == own | {"s0/9": ["s0", "s1"]}
    assert len(split.documents) == 9


def test_a_text_of_two_corpora_has_its_groups_in_both_and_is_no_negative_of_either(write_jsonl: Write) -> None:
    """As in a run with one source: no text of the pair's group in its own source may be its negative."""
    texts = [f"text {i}" for i in range(4)]
    groups: list[list[str | None]] = [["x", "x", "y", "y"], ["x", "y", "x", None]]
    sources = []
    for name, own in zip("ab", groups, strict=True):
        pairs = [{"query": f"{name} {i}", "positive": texts[i], "group": own[i]} for i in range(3)]
        corpus = [{"id": i, "text": texts[i], "group": own[i]} for i in range(4)]
        files = write_jsonl(f"{name}.jsonl", pairs), write_jsonl(f"{name}-corpus.jsonl", corpus)
        sources.append(source(name, files[0], corpus=str(files[1])))
    split = prepare(config(*sources, held_out=0.0))
    documents = list(split.documents)
    assert [document.groups for document in documents] == [["a/x", "b/x"], ["a/x", "b/y"], ["a/y", "b/x"], ["a/y"]]
    known, tuples = FalseNegatives(split.train, documents=documents), []
    for pair in split.train:
        barred = {text for text in texts if known.rule(pair, text)}
        own = groups["ab".index(pair.source or "")]
        assert barred == {
            text for text, group in zip(texts, own, strict=True) if f"{pair.source}/{group}" == pair.group
        }
        tuples.append(GradedTuple(pair.id, pair.query, pair.positive, (), group=pair.group))
    in_batch = known_false_negatives(tuples, documents=documents)
    assert in_batch.groups[identity("text 1")] == {"a/x", "b/y"}


def test_each_source_gives_its_share_of_held_out_and_dev_pairs(write_jsonl: Write) -> None:
    sources = [source(name, write_jsonl(f"{name}.jsonl", rows(name, count))) for name, count in SIZES.items()]
    several = config(*sources, held_out=0.2, dev_share=0.1)
    split = fit(several, prepare(several), "data.sources", drop_leaked=False)
    assert Counter(pair.source for pair in split.held_out) == {"red": 600, "blue": 200}
    assert Counter(pair.source for pair in split.dev) == {"red": 240, "blue": 80}
    assert Counter(pair.source for pair in split.train) == {"red": 2160, "blue": 720}
    held_out = {pair.positive for pair in split.held_out}
    assert {document.text for document in split.documents if document.split == "held_out"} == held_out


SIZES = {"red": 3000, "blue": 1000}


def test_no_text_is_held_out_of_one_source_and_trained_on_in_another(
    write_jsonl: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = [{**row, "query": f"other {row['query']}"} for row in rows("red", 20)[::-1]]
    one, two = write_jsonl("one.jsonl", rows("red", 20)), write_jsonl("two.jsonl", copies)
    split = prepare(config(source("one", one), source("two", two), held_out=0.25))
    assert Counter(pair.source for pair in split.held_out) == {"one": 5, "two": 5}
    held_out = {pair.positive for pair in split.held_out}
    assert not held_out & {pair.positive for pair in split.train}
    left_out = 30 - len(split.train)
    assert f"{left_out} pairs are not trained on: their query or positive is also in" in capsys.readouterr().err


@pytest.mark.parametrize("held_out", [0.25, ["one"]])
def test_no_query_nearly_equals_a_held_out_query_of_another_source(
    write_jsonl: Write, capsys: pytest.CaptureFixture[str], held_out: float | list[str]
) -> None:
    """The queries of `two` are those of `one` in other words, in another order; their answers differ."""
    copies = [{**row, "query": f"Query {row['id']}: red?", "positive": f"other {row['id']}"} for row in rows("red", 20)]
    one, two = write_jsonl("one.jsonl", rows("red", 20)), write_jsonl("two.jsonl", copies[::-1])
    three = write_jsonl("three.jsonl", rows("blue", 4))
    several = [source(path.stem, path) for path in (one, two, three)]
    split = prepare(config(*several, held_out=held_out))
    unseen = {pair.query.split()[2] for pair in split.held_out if pair.source == "one"}
    assert len(unseen) == (5 if held_out == 0.25 else 20)
    assert not {pair.id for pair in split.train} & {f"two/{id}" for id in unseen}
    assert sum(pair.source == "three" for pair in split.train) == (3 if held_out == 0.25 else 4)
    told = capsys.readouterr().err
    assert "pairs are not trained on: their query nearly equals a held-out query of another source (first: " in told
    assert "held-out queries nearly equal a training query" not in told


def test_a_limit_counts_the_training_pairs_of_its_source(write_jsonl: Write) -> None:
    sources = [source(name, write_jsonl(f"{name}.jsonl", rows(name, 20)), limit=limit) for name, limit in LIMITS]
    split = prepare(config(*sources, held_out=0.5))
    assert Counter(pair.source for pair in split.train) == {"red": 3, "blue": 10}
    assert len(split.held_out) == 20
    drawn = [pair.id for pair in split.train]
    assert drawn == [pair.id for pair in prepare(config(*sources, held_out=0.5)).train]


def test_faults_of_the_data_name_the_keys_of_sources(write_jsonl: Write) -> None:
    files = [write_jsonl(f"{name}.jsonl", rows(name, 4)) for name in ("red", "blue")]
    few = config(source("red", files[0], limit=1), source("blue", files[1], weight=None), held_out=["blue"])
    with pytest.raises(DataError) as caught:
        read_data(few)
    assert str(caught.value) == (
        "[[data.sources]]: found 1 pair to train on; a batch needs at least 2. "
        'Raise limit = 1 of the source "red", which limits them.'
    )


LIMITS = [("red", 3), ("blue", 50)]


def test_a_whole_source_is_held_out(write_jsonl: Write) -> None:
    sources = [source(name, write_jsonl(f"{name}.jsonl", rows(name, 5))) for name in ("red", "blue")]
    split = prepare(config(*sources, held_out=["blue"]))
    assert {pair.source for pair in split.held_out} == {"blue"}
    assert len(split.held_out) == len(split.train) == 5
    assert Counter((d.split, *(d.sources or [])) for d in split.documents) == {
        ("both", "red"): 5,
        ("held_out", "blue"): 5,
    }


@pytest.mark.parametrize("held_out", [0.2, ["red", "none"]])
def test_a_source_of_weight_0_is_searched_and_measured_but_has_no_training_pairs(
    write_jsonl: Write, held_out: float | list[str]
) -> None:
    """Even its query that is held out of another source is no leak, because it is not trained on."""
    leak = {**rows("red", 1)[0], "positive": "red answer of none"}
    pairs = {"red": rows("red", 10), "blue": rows("blue", 10), "none": [*rows("none", 9), {**leak, "id": "9"}]}
    files = {name: write_jsonl(f"{name}.jsonl", lines) for name, lines in pairs.items()}

    def prepared(weight: float, held_out: float | list[str]) -> SplitData:
        weights = {"red": 1.0, "blue": 1.0, "none": weight}
        return prepare(config(*(source(n, files[n], weight=weights[n]) for n in files), held_out=held_out))

    split = prepared(0.0, held_out)
    expected = {"red": 8, "blue": 8} if held_out == 0.2 else {"blue": 10}
    assert Counter(pair.source for pair in split.train) == expected
    assert Counter(pair.source for pair in split.held_out)["none"] == (2 if held_out == 0.2 else 10)
    counts = Counter(name for document in split.documents for name in document.sources or ())
    assert counts == {"red": 10, "blue": 10, "none": 10}
    if held_out == 0.2:
        assert list(split.held_out) == list(prepared(1.0, held_out).held_out)
    else:
        assert Counter(pair.source for pair in prepared(0.0, ["red"]).train) == {"blue": 10}


def test_given_negatives_follow_their_pairs(write_jsonl: Write) -> None:
    told = [{**row, "negative": f"no {row['query']}"} for row in rows("blue", 4)]
    plain, triplets = write_jsonl("a.jsonl", rows("red", 4)), write_jsonl("b.jsonl", told)
    split = prepare(config(source("one", plain), source("two", triplets), held_out=0.0))
    given, _ = usable_negatives(split)
    assert [(c.pair_id, c.text) for c in given] == [(f"two/{i}", f"no blue query {i}") for i in range(4)]


def test_a_source_whose_corpus_lacks_its_positives_is_named(write_jsonl: Write) -> None:
    corpus = write_jsonl("corpus.jsonl", [{"id": "1", "text": "nothing of it"}])
    pairs = write_jsonl("a.jsonl", rows("red", 4))
    with pytest.raises(DataError, match=r"source bad: .*corpus.jsonl: the positives of 4 pairs are not in the corpus"):
        prepare(config(source("good", pairs), source("bad", pairs, corpus=str(corpus))))


@pytest.mark.parametrize(
    ("sources", "data", "message"),
    [
        ([{"name": "a"}], {}, 'data.sources.0: source "a": the key pairs is missing, which mode = "pairs" needs; add'),
        ([{"name": "a", "mode": "corpus"}], {}, 'the key corpus is missing, which mode = "corpus" needs; add it'),
        ([{"name": "a", "mode": "corpus", "corpus": "c", "pairs": "p"}], {}, "the key pairs has no effect with mode ="),
        ([{"name": "a", "mode": "tasks", "pairs": "p"}], {}, 'the key pairs has no effect with mode = "tasks"'),
        ([{"name": "a", "mode": "tasks", "corpus": "c"}], {}, 'the key corpus has no effect with mode = "tasks"'),
        ([{"name": "a", "mode": "tasks", "instruction": "i"}], {}, "the key instruction has no effect with mode ="),
        ([{"name": "a", "mode": "negatives", "pairs": "p"}], {}, 'data.sources.0.mode: found "negatives"'),
        (
            [{"name": "a", "mode": "tasks", "weight": 0.0}],
            {},
            "weight = 0 would have pairs written .* remove the source",
        ),
        ([{"name": n, "mode": "tasks"} for n in "ab"], {}, 'data: sources a, b have mode = "tasks", but'),
        ([{"name": "a", "mode": "tasks"}], {}, 'synthesis.domains: missing; mode = "tasks" of the source "a" needs'),
        ([{"name": "a", "mode": "corpus", "corpus": "python-docs"}], {}, 'set pairs = "python-docs" in place of mode'),
        ([{"name": "a", "pairs": "p"}] * 2, {}, 'data: two sources have the name "a"; give each its own'),
        ([{"name": "a/b", "pairs": "p"}], {}, 'data.sources.0.name: found "a/b"'),
        ([{"name": "", "pairs": "p"}], {}, 'data.sources.0.name: found ""'),
        ([{"name": "a", "pairs": "p"}], {"pairs": "p"}, r"data: pairs has no effect beside \[\[data.sources\]\]"),
        ([{"name": "a", "pairs": "p"}], {"limit": 3}, r"data: limit has no effect beside \[\[data.sources\]\]"),
        ([{"name": "a", "pairs": "p", "weight": -1.0}], {}, "data.sources.0.weight: found -1.0"),
        ([{"name": "a", "pairs": "p", "weight": 0.0}], {}, "the weights of the sources sum to 0"),
        ([{"name": "a", "pairs": "p", "weight": 1.0}, {"name": "b", "pairs": "p"}], {}, 'source "b" has no weight'),
        (
            [{"name": "a", "pairs": "p", "weight": 1.0}],
            {"weight_exponent": 0.5},
            "weight_exponent has no effect beside",
        ),
        ([{"name": "a", "pairs": "p", "instruction": "a\nb"}], {}, r"instruction: found 'a\\nb'; wanted one line"),
        ([{"name": "a", "pairs": "p", "instruction": "a\u2028b"}], {}, "wanted one line"),
        (
            [{"name": "a", "pairs": "p", "task": " "}],
            {},
            "task: found ' '; wanted one line that names the kind of search",
        ),
        ([{"name": "a", "pairs": "p"}], {"held_out": ["c"]}, "held_out: no source c; sources: a"),
        ([{"name": "a", "pairs": "p"}], {"held_out": ["a"]}, "every source is held out"),
        (
            [{"name": "a", "pairs": "p", "weight": 0.0}, {"name": "b", "pairs": "p", "weight": 1.0}],
            {"held_out": ["b"]},
            "every source is held out or has weight 0; nothing is left",
        ),
        ([{"name": "a", "pairs": "p", "corpus": "python-docs"}], {}, "python-docs has its own corpus"),
        ([{"name": "a", "pairs": "p", "weights": 1.0}], {}, 'did you mean "data.sources.weight"'),
    ],
)
def test_faults_of_sources_are_told(
    tmp_path: Path, sources: list[dict[str, Any]], data: dict[str, Any], message: str
) -> None:
    import tomli_w

    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps({"name": "x", "data": {**data, "sources": sources}}))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert len(str(caught.value).strip().splitlines()) <= 2, "one fault, one message"


def test_a_mode_that_writes_pairs_is_refused_beside_sources() -> None:
    settings = {"name": "x", "data": {"sources": [{"name": "a", "pairs": "p"}]}, "synthesis": {"mode": "corpus"}}
    with pytest.raises(ValidationError, match='remove it, and set mode = "corpus" in the source to be written'):
        Config.model_validate(settings)


def test_runs_with_given_pairs_do_not_depend_on_the_mode() -> None:
    sources = [{"name": "a", "pairs": "p"}, {"name": "b", "mode": "corpus", "corpus": "c"}]
    config = Config.model_validate({"name": "x", "data": {"sources": sources}})
    given, written = config.model_dump(exclude_none=True)["data"]["sources"]
    assert (given, written) == (sources[0], sources[1])
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config


def test_paths_of_sources_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "x"\n[[data.sources]]\nname = "a"\npairs = "beir:d:train"\n[[data.sources]]\nname = "b"\n'
        'pairs = "b.jsonl"\ncorpus = "c.jsonl"\n[[data.sources]]\nname = "c"\npairs = "hf:org/name"\n'
    )
    sources = load_config(path).data.sources
    assert [(s.pairs, s.corpus) for s in sources] == [
        (f"beir:{tmp_path}/d:train", None),
        (f"{tmp_path}/b.jsonl", f"{tmp_path}/c.jsonl"),
        ("hf:org/name", None),
    ]


def test_weights_do_not_change_the_data(write_jsonl: Write) -> None:
    def with_weights(*weights: float) -> Config:
        return config(*({"name": f"s{i}", "pairs": "p", "weight": weight} for i, weight in enumerate(weights)))

    one, other, none = with_weights(1.0, 2.0), with_weights(2.0, 1.0), with_weights(2.0, 0.0)
    assert one.fingerprint("data") == other.fingerprint("data")
    assert one.fingerprint("training") != other.fingerprint("training")
    assert none.fingerprint("data") != one.fingerprint("data"), "a source of weight 0 has no training pairs"


def test_runs_with_one_source_do_not_mention_several() -> None:
    settings = Config.model_validate({"name": "x", "data": {"pairs": "p"}}).model_dump()["data"]
    assert not {"sources", "weight_exponent"} & settings.keys()
