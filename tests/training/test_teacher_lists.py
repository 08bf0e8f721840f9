"""Lists that a teacher has scored, as tuples, and what of them counts in a batch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative, folded
from multigrain.training.curriculum import plan
from multigrain.training.guide import Guide
from multigrain.training.teacher_lists import ListedTuples, ScoredList, ScoreScale, documents_of_list, texts_in

CORPUS = ["zero", "one", "two", "three"]


def texts_at(numbers: Sequence[int]) -> list[str]:
    return [CORPUS[number] for number in numbers]


def graded(index: int) -> GradedTuple:
    written = (Negative(f"n{index}", 2, 0.3, "llm"),)
    return GradedTuple(str(index), f"q{index}", f"p{index}", written, score=0.9)


def listed(documents: list[int], scores: list[float]) -> ScoredList:
    return ScoredList(np.array(documents, np.int32), np.array(scores, np.float32))


def test_a_tuple_has_the_documents_of_its_list_in_place_of_its_negatives() -> None:
    tuples = [graded(0), graded(1)]
    found = ListedTuples(tuples, {1: listed([-1, 3, -2, 0], [4.0, -1.5, 2.0, 0.5])}, texts_at)
    assert len(found) == 2
    assert found[0] is tuples[0]
    assert (found[1].id, found[1].query, found[1].positive, found[1].score) == ("1", "q1", "p1", 4.0)
    expected = [("three", 4, -1.5, "mined"), ("n1", 4, 2.0, "llm"), ("zero", 4, 0.5, "mined")]
    assert [(n.text, n.grade, n.score, n.source) for n in found[1].negatives] == expected
    assert list(found) == [found[0], found[1]] == found[0:2]


@given(
    own=st.lists(st.sampled_from(["a", "A ", "b", "c"]), min_size=1, max_size=4),
    texts=st.lists(st.sampled_from(["a", "b", "B", "d", "e", "f"]), max_size=8),
    most=st.integers(2, 6),
)
def test_a_list_has_each_text_once_and_the_positive_first(own: list[str], texts: list[str], most: int) -> None:
    numbers = list(range(len(texts)))
    documents = documents_of_list(own, numbers, texts, most)
    graded = GradedTuple("1", "q", own[0], tuple(Negative(text, 1, 0.0, "mined") for text in own[1:]))
    found = [folded(text) for text in texts_in(documents, graded, lambda at: [texts[number] for number in at])]
    assert found == list(dict.fromkeys(map(folded, own + texts)))[:most]
    assert documents[0] == -1


def test_equal_scores_teach_nothing() -> None:
    """All but one in a hundred are equal, so that the percentiles are."""
    scores = np.full(500, 0.25, np.float32)
    scores[:4] = 0.9
    with pytest.raises(DataError, match=r"training.teacher: nearly all of its 500 scores are 0.25"):
        ScoreScale.of(scores, 0.6)
    with pytest.raises(DataError, match="all of its 0 scores"):
        ScoreScale.of(scores[:0], 0.6)
    scores[:6] = 0.9
    assert ScoreScale.of(scores, 0.6).highest > 0.25


def test_what_a_teacher_scores_high_is_no_negative_of_its_query_in_other_rows() -> None:
    """Both lists hold "zero", "one" and "two". Of the scale 0 to 10 the bound for query 0 is 0.6 * 8 = 4.8."""
    lists = {0: listed([-1, 0, 1, 2], [8.0, 5.0, 4.0, -3.0]), 1: listed([-1, 2, 1, 0], [-5.0, -4.0, -3.0, -2.0])}
    phase = PhaseSection(name="lists", grades=[4, 4, 4], steps=1)
    base = plan([graded(0), graded(1)], [PhaseSection(name="lists", grades=[2], steps=1)], 2)
    scale = ScoreScale(0.0, 10.0, 0.6)
    curriculum = type(base)(
        (phase,), ListedTuples(base.tuples, lists, texts_at), base.places, base.turns, 7, base.known, teacher=scale
    )
    row = base.places[0].tolist().index(0)
    false = curriculum.false_at(0, 0)
    texts = [[document.text for document in curriculum.row(0, at, 0).documents] for at in range(2)]
    assert [texts[1 - row][column] for column in range(4) if 1 - row in false[row][column]] == ["zero"]
    assert not any(row in cell for cell in false[row])  # its own list stays in the divergence
    # of query 1 all scores are 0: none is above the others
    assert not any(row in cell for cell in false[1 - row])


def test_the_guide_leaves_a_list_whole() -> None:
    """It finds "zero" and "one" as near as the positives; what another row brings of them does not count."""
    vectors = {"two": [0.0, 1.0], "three": [0.0, 1.0]}
    guide = Guide(lambda texts, role: np.array([vectors.get(text, [1.0, 0.0]) for text in texts]), margin=0.05)
    lists = {0: listed([-1, 0, 2], [9.0, 1.0, 1.0]), 1: listed([-1, 1, 3], [9.0, 1.0, 1.0])}
    base = plan([graded(0), graded(1)], [PhaseSection(name="lists", grades=[4, 4], steps=1)], 2)
    guided = replace(base, tuples=ListedTuples(base.tuples, lists, texts_at), guide=guide)
    both = replace(guided, teacher=ScoreScale(0.0, 10.0, 0.6))
    for position in range(2):
        own, other = position, 1 - position
        assert own in guided.false_at(0, 0)[position][1]
        columns = both.false_at(0, 0)[position]
        assert [other in column for column in columns] == [True, True, False]
        assert not any(own in column for column in columns)
