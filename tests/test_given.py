"""Negatives that come with the pairs: from the file to the tuples, in whole runs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.candidates_by_pair import by_pair
from multigrain.data.distinct_documents import Documents
from multigrain.data.jsonl import read_objects
from multigrain.data.split_data import SplitData, usable_negatives
from multigrain.errors import ConfigError, RunError
from multigrain.pipeline import verbs
from multigrain.records import Candidate, Pair
from tests.conftest import small_pairs


def write_flagembedding(path: Path, pairs: list[dict[str, Any]]) -> None:
    """Each query with the positives of the next two as its negatives: some of them will be held out."""
    lines = []
    for i, pair in enumerate(pairs):
        others = [pairs[(i + step) % len(pairs)]["positive"] for step in (1, 2)]
        lines.append({"query": pair["query"], "pos": [pair["positive"]], "neg": [*others, f"only here {i} the old"]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def objects(path: Path) -> list[dict[str, Any]]:
    return [fields for _, fields in read_objects(path)]


def test_given_negatives_become_candidates(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_flagembedding(run_toml.parent / "pairs.jsonl", small_pairs())
    config = load_config(run_toml)
    assert main(["check", str(run_toml)]) == 0
    checked = capsys.readouterr().out
    counts = verbs.synthesize(config)["counts"]
    assert "given negatives are left out: they are held-out texts" in capsys.readouterr().err
    train, held_out, given, candidates = (
        objects(config.folder / name)
        for name in ("data/train.jsonl", "data/held_out.jsonl", "data/given.jsonl", "synthesis/candidates.jsonl")
    )
    assert {c["pair_id"] for c in given} == {pair["id"] for pair in train}
    assert not {c["text"] for c in given} & {pair["positive"] for pair in held_out}
    assert 30 < len(given) < 90
    assert {(c["grade"], c["source"], c["model"]) for c in given} == {(4, "mined", "given")}
    assert [c for c in candidates if c["model"] == "given"] == given
    assert counts["given"] == len(given)
    assert f"{len(given)} given negatives" in checked


def test_given_negatives_come_in_any_order(run_toml: Path) -> None:
    """Triplets of which the rows of a pair lie apart."""
    pairs = small_pairs()
    rows = [
        {"query": pair["query"], "positive": pair["positive"], "negative": f"only here {i} {step} the old"}
        for i, pair in enumerate(pairs)
        for step in range(4)
    ]
    random.Random(5).shuffle(rows)
    (run_toml.parent / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(run_toml, ["synthesis.limit=0", "mining.enabled=false"])
    counts = verbs.synthesize(config)["counts"]
    assert counts["given"] == 4 * counts["train_pairs"] == 120
    order = [pair["id"] for pair in objects(config.folder / "data" / "train.jsonl")]
    assert list(dict.fromkeys(c["pair_id"] for c in objects(config.folder / "data" / "given.jsonl"))) == order


def test_no_candidate_is_left_behind() -> None:
    """Whoever puts streams together says so where one has another order, instead of losing the rest."""
    pairs = [Pair(id, f"q {id}", f"p {id}") for id in "abc"]
    found = [Candidate(id, 4, f"text {i}", "mined", "given") for i, id in enumerate("aac")]
    assert [len(own) for _, own in by_pair(pairs, found, found[:2])] == [4, 0, 1]
    for wrong in ([found[2], found[0]], [*found, Candidate("x", 4, "text", "mined", "given")]):
        with pytest.raises(RunError, match='the candidates of pair "(a|x)" are not in the order of the pairs'):
            list(by_pair(pairs, found, wrong))


def test_given_negatives_alone_are_enough(run_toml: Path) -> None:
    write_flagembedding(run_toml.parent / "pairs.jsonl", small_pairs())
    config = load_config(run_toml, ["synthesis.limit=0", "mining.enabled=false"])
    counts = verbs.synthesize(config)["counts"]
    assert (counts["written"], counts["mined"]) == (0, 0)
    assert verbs.grade(config)["counts"]["negatives"] > 0
    given = {c["text"] for c in objects(config.folder / "data" / "given.jsonl")}
    assert {n["text"] for t in objects(config.folder / "grading/tuples.jsonl") for n in t["negatives"]} <= given


def test_changed_negatives_are_noticed(run_toml: Path) -> None:
    pairs = run_toml.parent / "pairs.jsonl"
    write_flagembedding(pairs, small_pairs())
    config = load_config(run_toml)
    verbs.synthesize(config)
    pairs.write_text(pairs.read_text().replace("only here", "now here"))
    with pytest.raises(ConfigError, match="made from other input files"):
        verbs.synthesize(config)
    verbs.synthesize(config, force=True)
    assert "now here" in (config.folder / "synthesis" / "candidates.jsonl").read_text()


def test_the_tuples_of_one_run_are_the_pairs_of_another(run_toml: Path) -> None:
    first = load_config(run_toml)
    verbs.synthesize(first)
    verbs.grade(first)
    tuples = first.folder / "grading" / "tuples.jsonl"
    second = load_config(run_toml, [f"data.pairs={tuples}", "name=second", "data.held_out=0.2"])
    verbs.synthesize(second)
    train = {pair["id"] for pair in objects(second.folder / "data" / "train.jsonl")}
    negatives = {(t["id"], n["text"], n["grade"], n["source"]) for t in objects(tuples) for n in t["negatives"]}
    given = {(c["pair_id"], c["text"], c["grade"], c["source"]) for c in objects(second.folder / "data/given.jsonl")}
    assert given
    assert given <= {negative for negative in negatives if negative[0] in train}


def test_what_is_held_out_is_no_negative() -> None:
    """Whatever its case and white space, be it a query or a positive."""
    texts = ["Held  OUT answer", "held out question", "another", "another"]
    split = SplitData(
        [Pair("a", "q", "p")],
        [Pair("b", "Held out question", "held out answer")],
        Documents(list, frozenset(), 0),
        [Candidate(id, 4, text, "mined", "given") for text in texts for id in ("a", "b", "c")],
    )
    usable, left_out = usable_negatives(split)
    assert [(c.pair_id, c.text) for c in usable] == [("a", "another"), ("a", "another")]
    assert left_out == 2
