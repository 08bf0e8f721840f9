"""What grading has dropped is counted and found again: on files written by hand, and on a whole tiny run."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from multigrain.config import load_config
from multigrain.data.corpus_file import Corpus
from multigrain.data.dropped_candidates import dropped_writer
from multigrain.data.jsonl import read_candidates, read_objects_with, read_pairs, write_records
from multigrain.data.mined_candidates import NO_RANK, DroppedMined, Mined, mined_writer, read_mined, read_mined_of
from multigrain.errors import ConfigError, DataError, RunError
from multigrain.files import write_json
from multigrain.pipeline import verbs
from multigrain.pipeline.dropped import DroppedCandidate, DroppedCount, render_counts, render_pair
from multigrain.pipeline.run_dir import RunDir, StageRecord
from multigrain.records import Candidate, Document, Dropped, GradedTuple, Negative, Pair

IDS = ("q1", "q10", 'say "q1"', "ü/1")
"""Of which one is the beginning of another, one holds another in quotes, and one is no ASCII."""


def mined_rows(*rows: tuple[int, int, int, int, float]) -> Mined:
    """Rows of (pair, document, grade, method, cosine); BM25 is ten times the cosine, and 8 of every positive."""
    pair, document, grade, method, cosine = (np.array(column) for column in zip(*rows, strict=True))
    cosines = cosine.astype(np.float32)
    return Mined(
        pair=pair.astype(np.int32),
        document=document.astype(np.int32),
        grade=grade.astype(np.int8),
        method=method.astype(np.int8),
        rank=np.full(len(rows), NO_RANK, dtype=np.int32),
        words=np.full(len(rows), 9, dtype=np.float32),
        scores={"embedding": cosines, "bm25": 10 * cosines},
        positives={"embedding": np.full(len(rows), 0.8, np.float32), "bm25": np.full(len(rows), 8, np.float32)},
    )


def graded_run(run_toml: Path) -> RunDir:
    """The files of a run of four pairs, as the stages leave them; nothing is dropped of the last pair."""
    run_dir = RunDir(load_config(run_toml).folder)
    for folder in ("data", "synthesis", "grading"):
        (run_dir.folder / folder).mkdir(parents=True)
    write_records(run_dir.train_pairs, [Pair(id, f"query {id}", f"positive {id}") for id in IDS])
    write_records(run_dir.held_out_pairs, [Pair("held", "another query", "another positive")])
    write_records(run_dir.corpus, [Document(f"d{n}", f"document {n}\nof two lines and more words") for n in range(6)])
    first = mined_rows((0, 2, 4, 1, 0.5), (0, 5, 1, 0, 0.125))
    second = mined_rows((1, 0, 3, 0, 0.25), (1, 2, 2, 0, 0.25), (2, 2, 1, 1, 0.375))
    with mined_writer(run_dir.mined) as mined:
        mined.write(first)
        mined.write(second)
    with dropped_writer(run_dir.dropped_mined) as dropped:
        value = np.array([1.0])
        dropped.write(0, first, [DroppedMined("length", np.array([0]), 2 * value)])
        dropped.write(0, second, [DroppedMined("order", np.array([1, 0]), np.array([2.0, 3.0]))])
    texts = [
        Dropped(Candidate("q1", 2, "written text", "llm", "a model"), "near duplicate", 1.0),
        Dropped(Candidate("q1", 4, "given text", "mined", "given"), "length", 7.25),
        Dropped(Candidate("q10", 1, "of another pair", "llm", "a model"), "echo", 1.0),
        Dropped(Candidate('say "q1"', 1, "of a third pair", "llm", "a model"), "echo", 1.0),
    ]
    write_records(run_dir.dropped, texts)
    negatives = (Negative("kept easy", 1, 0.1, "mined"), Negative("kept hard", 3, 0.6, "llm"))
    write_records(run_dir.tuples, [GradedTuple("q1", "query q1", "positive q1", negatives)])
    rows: dict[str, list[dict[str, Any]]] = {
        "mined": [{"grade": 1, "dropped": {}}, {"grade": 3, "dropped": {"order": 11, "length": 1}}],
        "llm": [{"grade": 2, "dropped": {"length": 4}}, {"grade": 1, "dropped": {"length": 3}}],
    }
    write_json(run_dir.report, {"dropped": {"order": 11, "length": 8}, "by_source": rows})
    run_dir.record("grade", StageRecord("", "", 7, 1.0))
    return run_dir


def test_counts_are_those_of_the_report_the_most_common_rule_first(run_toml: Path) -> None:
    graded_run(run_toml)
    counts = verbs.dropped(run_toml)
    assert counts == [
        DroppedCount("order", "mined", 3, 11),
        DroppedCount("length", "llm", 1, 3),
        DroppedCount("length", "llm", 2, 4),
        DroppedCount("length", "mined", 3, 1),
    ]
    assert render_counts(counts).splitlines() == [
        "rule    source  grade 1  grade 2  grade 3  grade 4",
        "order   mined                          11",
        "length  llm           3        4",
        "length  mined                           1",
        "",
        "19 candidates dropped; to see those of one pair: multigrain dropped RUN --pair ID",
    ]
    assert render_counts([]) == "nothing was dropped"


def test_all_of_a_pair_and_nothing_of_others(run_toml: Path) -> None:
    graded_run(run_toml)
    found = verbs.dropped(run_toml, "q1")
    assert found.pair.query == "query q1"
    assert found.kept is not None and len(found.kept.negatives) == 2
    assert found.scores == pytest.approx({"embedding": 0.8, "bm25": 8})
    assert found.dropped == [
        DroppedCandidate(
            "length", 4, "bm25", 2.0, "document 2\nof two lines and more words", {"embedding": 0.5, "bm25": 5.0}
        ),
        DroppedCandidate("length", 4, "given", 7.25, "given text", {}),
        DroppedCandidate("near duplicate", 2, "written", 1.0, "written text", {}),
    ]
    other = verbs.dropped(run_toml, "q10")
    assert other.kept is None
    assert [(c.rule, c.grade, c.origin, c.value) for c in other.dropped] == [
        ("echo", 1, "written", 1.0),
        ("order", 3, "embedding", 3.0),
        ("order", 2, "embedding", 2.0),
    ]
    assert [c.text for c in verbs.dropped(run_toml, 'say "q1"').dropped] == ["of a third pair"]
    last = verbs.dropped(run_toml, "ü/1")
    assert (last.pair.id, last.kept, last.dropped, last.scores) == ("ü/1", None, [], {})
    assert render_pair(last, None).endswith("nothing was kept\n\nnothing was dropped")


def test_a_line_for_each_text_cut_on_a_terminal_alone(run_toml: Path) -> None:
    graded_run(run_toml)
    found = verbs.dropped(run_toml, "q1")
    assert render_pair(found, None).splitlines() == [
        "query     query q1",
        "positive  positive q1",
        "          embedding 0.800, bm25 8.000",
        "",
        "kept",
        "  source  grade  score  text",
        "  llm         3  0.600  kept hard",
        "  mined       1  0.100  kept easy",
        "",
        "dropped",
        "  source   grade  value  embedding   bm25  text",
        "length (2)",
        "  bm25         4      2      0.500  5.000  document 2 of two lines and more words",
        "  given        4   7.25                    given text",
        "near duplicate (1)",
        "  written      2      1                    written text",
    ]
    wide, narrow = render_pair(found, 70), render_pair(found, 40)
    assert "5.000  document 2 of two lines …\n" in wide and max(map(len, wide.splitlines())) <= 70
    assert "5.000  document 2 of two …\n" in narrow  # something of a text is shown on any terminal


def test_only_groups_of_rows_that_may_hold_the_pair_are_read(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.data.dropped_candidates.ROWS", 1)
    run_dir = graded_run(run_toml)
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group

    def counted(file: Any, group: int, *options: Any) -> Any:
        read.append(group)
        return whole(file, group, *options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    verbs.dropped(run_toml, "q10")
    assert read == [1, 2]  # of three rows
    rows = read_mined(run_dir.mined)
    for number in range(len(IDS)):
        one, expected = read_mined_of(run_dir.mined, number), rows[rows.pair == number]
        assert one.document.tolist() == expected.document.tolist()
        assert {judge: s.tolist() for judge, s in one.scores.items()} == {
            judge: s.tolist() for judge, s in expected.scores.items()
        }


def test_lines_are_found_by_the_whole_value_of_their_field(run_toml: Path) -> None:
    run_dir = graded_run(run_toml)
    write_records(
        run_dir.train_pairs, [Pair("b", "x", '"id": "a"'), Pair("a", "y", "z"), Pair("c", "x", "z", task="a")]
    )
    assert [line for line, _ in read_objects_with(run_dir.train_pairs, "id", "a")] == [2]


def test_what_is_not_there_is_told(run_toml: Path) -> None:
    with pytest.raises(RunError, match="tiny: there are no graded tuples yet. Run: multigrain grade RUN.toml"):
        verbs.dropped(run_toml)
    run_dir = graded_run(run_toml)
    with pytest.raises(ConfigError, match='tiny: no training pair has the id "q100"; did you mean "q10"?'):
        verbs.dropped(run_toml, "q100")
    with pytest.raises(ConfigError, match=r'the id "xyz"; .*train\.jsonl for all ids'):
        verbs.dropped(run_toml, "xyz")
    with pytest.raises(ConfigError, match=r'held_out\.jsonl: contains the pair "held", which is not trained on'):
        verbs.dropped(run_toml, "held")
    with pytest.raises(ConfigError, match="found the pair 7; wanted the id of a training pair"):
        verbs.dropped(run_toml, 7)  # type: ignore[call-overload]
    with mined_writer(run_dir.mined) as mined:
        mined.write(mined_rows((0, 5, 1, 0, 0.125)))
    with pytest.raises(RunError, match=r"mined\.parquet: newer than the grading"):
        verbs.dropped(run_toml, "q1")
    for path, stage in ((run_dir.dropped_mined, "grade"), (run_dir.mined, "synthesize")):
        path.write_bytes(b"no table")
        with pytest.raises(DataError, match=rf"{path.name}: cannot be read .* Delete it; {stage} recreates it"):
            verbs.dropped(run_toml, "q1")


def test_nothing_of_a_run_is_lost(run_toml: Path) -> None:
    """What was proposed for a pair is kept or dropped, and all pairs together are what the report counts."""
    config = load_config(run_toml, ["grading.repairs=0", "mining.per_grade=3", "mining.grades=[3, 4]"])
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    written, mined, documents = (
        list(read_candidates(run_dir.candidates)),
        read_mined(run_dir.mined),
        Corpus(run_dir.corpus),
    )
    counts: Counter[tuple[str, str, int]] = Counter()
    for number, pair in enumerate(read_pairs(run_dir.train_pairs)):
        found = verbs.dropped(config, pair.id)
        kept = found.kept.negatives if found.kept else ()
        proposed = [c.text for c in written if c.pair_id == pair.id]
        proposed += documents.texts(mined.document[mined.pair == number].tolist())
        assert sorted([n.text for n in kept] + [c.text for c in found.dropped]) == sorted(proposed)
        for candidate in found.dropped:
            source = "llm" if candidate.origin == "written" else "mined"
            counts[candidate.rule, source, candidate.grade] += 1
            assert candidate.scores.keys() == ({"embedding", "bm25"} if source == "mined" else set())
    assert counts == {(c.rule, c.source, c.grade): c.count for c in verbs.dropped(config)}
    assert {source for _, source, _ in counts} == {"llm", "mined"}
    assert counts.total() == sum(json.loads(run_dir.report.read_text())["dropped"].values())
