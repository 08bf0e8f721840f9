from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.grading.grade import grade_candidates
from multigrain.grading.judges import EmbeddingJudge
from multigrain.grading.report import report
from multigrain.grading.rules import broken_rule
from multigrain.records import Candidate, Pair, Source, to_json, tuple_from_json

BOUNDS = (0.35, 0.6, 0.8, 0.95)
PAIR = Pair("p", "how do cats sleep at night", "cats sleep in short naps through day and night alike")


class Told:
    """A judge that reads the relevance off the end of the text; the positive has 1."""

    def relevance(self, query: str, text: str) -> float:
        return 1.0 if text == PAIR.positive else float(text.rsplit(maxsplit=1)[-1])


def candidate(relevance: float, grade: int, source: Source = "llm", words: str = "") -> Candidate:
    own = {1: "rivers run to the sea", 2: "a kettle boils", 3: "her violin was old", 4: "ships need pilots"}[grade]
    return Candidate("p", grade, f"{words or source + ' ' + own} {relevance}", source, "m")


def test_each_candidate_gets_the_grade_it_has_by_hand() -> None:
    candidates = [
        candidate(0.1, 1),
        candidate(0.9, 2),
        candidate(0.96, 3),
        candidate(0.85, 4),
        candidate(0.7, 3, "mined"),
    ]
    graded = grade_candidates([PAIR], candidates, Told(), BOUNDS)
    # 0.9 was asked for grade 2 and measures 4, but 0.85 was asked for grade 4: the one that was moved is surplus.
    assert [(n.grade, n.score, n.source) for n in graded.tuples[0].negatives] == [
        (1, 0.1, "llm"),
        (3, 0.7, "mined"),
        (4, 0.85, "llm"),
    ]
    assert [(d.rule, d.value, d.candidate.text[-3:]) for d in graded.dropped] == [
        ("false negative", 0.96, ".96"),
        ("surplus", 4.0, "0.9"),
    ]


def test_written_candidates_come_before_mined_ones() -> None:
    graded = grade_candidates([PAIR], [candidate(0.1, 1, "mined"), candidate(0.2, 1)], Told(), BOUNDS)
    assert [n.source for n in graded.tuples[0].negatives] == ["llm"]
    both = grade_candidates([PAIR], [candidate(0.1, 1, "mined"), candidate(0.2, 1)], Told(), BOUNDS, per_grade=2)
    assert [n.score for n in both.tuples[0].negatives] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("two words", "too short"),
        ("Query: and so on and on", "echo of the prompt"),
        ("How do cats  sleep at night?", "copy of the query"),
        ("Cats sleep in short naps through day and night alike.", "copy of the positive"),
        ("something that was said before", "copy of another candidate"),
    ],
)
def test_rules(text: str, rule: str) -> None:
    broken = broken_rule(Candidate("p", 1, text, "llm", "m"), PAIR, ["Something that was said before!"])
    assert broken is not None
    assert broken[0] == rule


def test_a_text_of_its_own_breaks_no_rule() -> None:
    assert broken_rule(Candidate("p", 1, "dogs bark when somebody comes", "llm", "m"), PAIR, []) is None


def test_a_positive_that_is_irrelevant_itself_has_no_negatives() -> None:
    pair = Pair("p", "how do cats sleep at night", "-0.01")
    candidates = [candidate(0.1, 1), candidate(-0.5, 2, "mined")]
    graded = grade_candidates([pair], candidates, Told(), BOUNDS)
    assert graded.tuples == []
    assert [(d.rule, d.value) for d in graded.dropped] == [("irrelevant positive", -0.01)] * 2
    assert report(graded, candidates)["negatives"] == 0


@given(st.lists(st.tuples(st.floats(-1, 1.5), st.integers(1, 4), st.sampled_from(["llm", "mined"])), max_size=12))
def test_nothing_disappears_and_order_holds(items: list[tuple[float, int, Source]]) -> None:
    candidates = [
        candidate(round(relevance, 3), grade, source, f"{chr(97 + i) * 9} {chr(110 + i) * 9} {i * 12345}")
        for i, (relevance, grade, source) in enumerate(items)
    ]
    graded = grade_candidates([PAIR], candidates, Told(), BOUNDS)
    negatives = graded.tuples[0].negatives if graded.tuples else ()
    assert len(negatives) + len(graded.dropped) == len(candidates)
    assert {n.text for n in negatives} | {d.candidate.text for d in graded.dropped} == {c.text for c in candidates}
    assert [n.grade for n in negatives] == sorted({n.grade for n in negatives})
    assert [n.score for n in negatives] == sorted(n.score for n in negatives)
    if graded.tuples:
        assert tuple_from_json(to_json(graded.tuples[0])) == graded.tuples[0]


def test_report_counts_by_hand() -> None:
    candidates = [
        candidate(0.1, 1),
        candidate(0.5, 2),
        candidate(0.4, 3),
        candidate(0.99, 4),
        candidate(0.9, 4, "mined"),
    ]
    found = report(grade_candidates([PAIR], candidates, Told(), BOUNDS), candidates)
    assert (found["tuples"], found["negatives"], found["tuples_with_all_grades"]) == (1, 3, 0)
    assert found["dropped"] == {"false negative": 1, "surplus": 1}
    assert found["order_rate"] == pytest.approx(2 / 3, abs=1e-4)  # 0.1 < 0.5, 0.5 > 0.4, 0.4 < 0.99
    row = found["by_source"]["llm"][2]
    assert (row["asked"], row["measured"], row["kept"], row["relevance_mean"]) == (1, 0, 0, 0.4)


def test_the_embedding_judge_embeds_each_text_once() -> None:
    calls: list[Sequence[str]] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        calls.append(texts)
        return np.eye(len(texts), 2, dtype=np.float32)

    judge = EmbeddingJudge(embed, ["a", "b", "a"])
    assert calls == [["a", "b"]]
    assert (judge.relevance("a", "a"), judge.relevance("a", "b")) == (1.0, 0.0)
