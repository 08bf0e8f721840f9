import json
from dataclasses import replace
from random import Random
from statistics import fmean, pstdev, quantiles
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.data.mined_candidates import DroppedMined, no_candidates
from multigrain.grading import report as module
from multigrain.grading.block import Graded
from multigrain.grading.measured import Measured
from multigrain.grading.report import Distribution, Report, leak_warning, render, render_examples
from multigrain.records import Candidate, Dropped, GradedTuple, Negative, Pair, Source


class Made(NamedTuple):
    """A candidate, and what was measured of it."""

    candidate: Candidate
    relevance: tuple[float, ...]
    grade: int


def measured(pair: str, asked: int, grade: int, *relevance: float, source: Source = "llm") -> Made:
    return Made(Candidate(pair, asked, f"{pair} {asked} {relevance}", source, "m"), relevance, grade)


def columns_of(made: list[Made]) -> Measured:
    """The columns of the candidates of one pair, of which the mined ones come last."""
    count = len(made)
    is_written = np.array([m.candidate.source == "llm" for m in made])
    return Measured(
        pair=np.zeros(count, np.int64),
        text=np.where(is_written, np.arange(count), -1),
        row=np.where(is_written, -1, np.arange(count) - is_written.sum()),
        asked=np.array([m.candidate.grade for m in made]),
        is_written=is_written,
        is_kept=np.zeros(count, bool),
        relevance=np.array([m.relevance for m in made]),
        grade=np.array([m.grade for m in made]),
        length=np.zeros(count),
        answers=np.zeros(count, bool),
    )


def small() -> Report:
    """Two pairs, two judges. The first pair: all grades, of which one is mined. The second: nothing is left."""
    report = Report(["one", "two"], seed=7)
    first = [
        measured("a", 1, 1, 0.1, 0.3),
        measured("a", 2, 2, 0.4, 0.2),  # out of order to the second judge alone
        measured("a", 3, 3, 0.6, 0.6),
        measured("a", 4, 5, 0.99, 0.7),
        measured("a", 4, 4, 0.8, 0.9, source="mined"),
    ]
    negatives = tuple(
        Negative(m.candidate.text, m.grade, m.relevance[0], m.candidate.source) for m in (*first[:3], first[4])
    )
    graded_tuple = GradedTuple("a", "who sleeps", "the cat sleeps", negatives)
    refused = Candidate("b", 2, "I cannot", "llm", "m")
    moved = measured("b", 1, 1, 0.2, 0.2)
    proposals = [
        (Pair("a", "who sleeps", "the cat sleeps"), [m.candidate for m in first[:4]]),
        (Pair("b", "who barks", "the dog barks"), [refused, moved.candidate]),
    ]
    false = [Dropped(first[3].candidate, "false negative", 0.99)]
    mined = replace(
        no_candidates(),
        pair=np.zeros(2, np.int32),
        document=np.arange(2, dtype=np.int32),
        grade=np.array([4, 2], np.int8),
        method=np.zeros(2, np.int8),
        rank=np.zeros(2, np.int32),
    )
    copy = [DroppedMined("copy of the query", np.array([1]), np.array([1.0]))]
    report.add(proposals[:1], mined, Graded([graded_tuple], false, copy, columns_of(first)))
    dropped = [Dropped(refused, "refusal", 1.0), Dropped(moved.candidate, "order", 1.0)]
    report.add(proposals[1:], no_candidates(), Graded([], dropped, [], columns_of([moved])))
    return report


def test_rows_counted_by_hand() -> None:
    found = small().result()
    assert (found["tuples"], found["negatives"], found["tuples_with_all_grades"]) == (1, 4, 1)
    assert found["judges"] == ["one", "two"]
    assert found["dropped"] == {"false negative": 1, "copy of the query": 1, "refusal": 1, "order": 1}
    # Steps among the written ones of the first pair: 1-2, 2-3, 3-4; the second has a single one.
    assert found["order_rate"] == {"one": 1.0, "two": round(2 / 3, 4)}
    assert (found["duplicates_within_tuples"], found["near_duplicates_across_tuples"]) == (0, 0.0)
    assert list(found["by_source"]) == ["llm", "mined"]
    assert found["by_source"]["llm"][0] == {
        "grade": 1,
        "asked": 2,
        "measured": 2,
        "kept": 1,
        "dropped": {"order": 1},
        "relevance_mean": 0.15,
        "relevance_spread": 0.05,
        "relevance_quartiles": [0.075, 0.15, 0.225],
    }
    row = found["by_source"]["llm"][1]
    assert (row["asked"], row["measured"], row["kept"], row["dropped"]) == (2, 1, 1, {"refusal": 1})
    row = found["by_source"]["llm"][3]
    assert (row["asked"], row["measured"], row["kept"], row["relevance_mean"]) == (1, 0, 0, 0.99)
    row = found["by_source"]["mined"][3]
    assert (row["asked"], row["measured"], row["kept"], row["relevance_quartiles"]) == (1, 1, 1, None)
    row = found["by_source"]["mined"][1]
    assert (row["asked"], row["measured"], row["kept"], row["dropped"]) == (1, 0, 0, {"copy of the query": 1})
    assert found["leak"] is None
    assert [example["id"] for example in found["examples"]] == ["a"]


def test_the_table_and_the_examples() -> None:
    found = small().result()
    lines = render(found).splitlines()
    assert lines[0].split() == ["source", "grade", "asked", "kept", "relevance", "words", "dropped"]
    assert lines[1].split() == ["llm", "1", "2", "1", "0.15", "+-", "0.05", "4", "order", "1"]
    assert [line.split()[:2] for line in lines[1:7]] == [["llm", g] for g in "1234"] + [["mined", g] for g in "24"]
    assert lines[7] == (
        "tuples with all four grades: 100.0%; written grades in order, before grading: 1.00 by one, 0.67 by two"
    )
    assert render_examples(found).splitlines()[:3] == [
        "query         who sleeps",
        "positive      the cat sleeps",
        "grade 1 llm   a 1 (0.1, 0.3)",
    ]
    assert render_examples(found).splitlines()[-1] == "grade 4 mined a 4 (0.8, 0.9)"
    assert leak_warning(found) is None


@pytest.mark.parametrize("proposals", [[], [(Pair("a", "who sleeps", "the cat sleeps"), [])]])
def test_an_empty_run(proposals: list[Any]) -> None:
    report = Report(["embedding"], 7)
    report.add(proposals, no_candidates(), Graded())
    found = json.loads(json.dumps(report.result(), allow_nan=False))
    assert (found["tuples"], found["negatives"], found["dropped"], found["by_source"]) == (0, 0, {}, {})
    assert found["order_rate"] == {"embedding": None}
    assert found["near_duplicates_across_tuples"] is None
    assert render(found).splitlines()[-1].endswith("before grading: -")
    assert (render_examples(found), leak_warning(found)) == ("", None)


def tuples(count: int, words: int, draw: Random) -> list[GradedTuple]:
    def text(length: int) -> str:
        return " ".join("".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(length)) + "."

    return [
        GradedTuple(
            str(n), "a query", text(draw.randint(10, 30)), (Negative(text(draw.randint(10, words)), 2, 0.4, "llm"),)
        )
        for n in range(count)
    ]


def test_a_leak_is_told_with_what_tells_and_can_be_written() -> None:
    report = Report(["embedding"], 7)
    report.add([], no_candidates(), Graded(tuples(60, 12, Random(1))))  # negatives are shorter
    found = json.loads(json.dumps(report.result(), allow_nan=False))  # no number of numpy's
    warning = leak_warning(found)
    assert warning is not None
    assert "words" in warning and "grade 2 llm" in warning and "synthesis.sources" in warning
    assert "leak test" in render(found)
    report = Report(["embedding"], 7)
    report.add([], no_candidates(), Graded(tuples(60, 30, Random(1))))
    assert leak_warning(report.result()) is None


def test_the_sample_is_drawn_by_seed_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 15)
    monkeypatch.setattr(module, "find_leak", lambda *_: None)
    made = tuples(400, 20, Random(2))

    def drawn(seed: int, block: int) -> dict[str, Any]:
        report = Report(["embedding"], seed)
        for start in range(0, len(made), block):
            report.add([], no_candidates(), Graded(made[start : start + block]))
        assert report.result() == report.result()
        return report.result()

    found = drawn(7, 50)
    assert found == drawn(7, 400)
    ids = [int(example["id"]) for example in found["examples"]]
    assert len(ids) == 10
    assert ids != [int(example["id"]) for example in drawn(8, 50)["examples"]]
    assert max(ids) > 100  # not the first ones alone
    assert (found["tuples"], found["negatives"], found["style"]["positive"]["texts"]) == (400, 400, 15)


def test_what_is_twice_in_a_tuple_is_counted() -> None:
    negatives = tuple(Negative(text, 1, 0.1, "mined") for text in ("a dog barks", "A  dog barks", "rain"))
    report = Report(["embedding"], 7)
    report.add([], no_candidates(), Graded([GradedTuple("a", "q", "p", negatives)]))
    assert report.result()["duplicates_within_tuples"] == 1


@given(st.lists(st.integers(-20_000, 20_000).map(lambda n: n / 10_000), max_size=40), st.integers(1, 7))
def test_a_distribution_is_that_of_all_numbers(numbers: list[float], at_once: int) -> None:
    found = Distribution()
    for start in range(0, len(numbers), at_once):
        found.add(np.array(numbers[start : start + at_once]))
    if not numbers:
        assert (found.mean, found.spread, found.quartiles) == (None, None, None)
        return
    assert found.mean == pytest.approx(fmean(numbers), abs=1e-4)
    assert found.spread == pytest.approx(pstdev(numbers), abs=1e-4)
    expected = quantiles(numbers, n=4) if len(numbers) > 1 else None
    assert found.quartiles == (expected and pytest.approx(expected, abs=1e-4))
