import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import Document as Passage
from multigrain.records import GradedTuple, Negative, Pair
from multigrain.training.curriculum import POSITIVE, Curriculum, Document, Row, hold_out, plan
from multigrain.training.in_batch_false_negatives import known_false_negatives


def graded(index: int, grades: tuple[int, ...], query: str | None = None, task: str | None = None) -> GradedTuple:
    negatives = tuple(Negative(f"n{index} of {grade}", grade, grade / 4, "llm") for grade in grades)
    return GradedTuple(str(index), query or f"q{index}", f"p{index}", negatives, task=task, score=0.9)


def phases(*grades: list[int], steps: int = 3) -> list[PhaseSection]:
    return [PhaseSection(name=str(i), grades=g, steps=steps) for i, g in enumerate(grades)]


def rows(curriculum: Curriculum) -> list[list[Row]]:
    return [
        [curriculum.row(step, position, curriculum.phase_at(step)) for position in range(curriculum.batch_size)]
        for step in range(curriculum.steps)
    ]


def false_by_definition(curriculum: Curriculum, batch: list[Row], step: int) -> set[tuple[int, int, int]]:
    """(query, row, column) of each document of a batch that is no negative of the query."""
    tuples = [curriculum.tuples[place] for place in curriculum.places[step]]
    answers = {t.query: {other.positive for other in curriculum.tuples if other.query == t.query} for t in tuples}
    of_group = {t.group: {other.positive for other in curriculum.tuples if other.group == t.group} for t in tuples}
    of_group[None] = set()
    return {
        (mine, row, column)
        for mine, graded in enumerate(tuples)
        for row, beside in enumerate(batch)
        for column, document in enumerate(beside.documents)
        if document.weight and (mine, 0) != (row, column)
        if document.text in answers[graded.query] | of_group[graded.group]
    }


def false_as_planned(curriculum: Curriculum, step: int) -> set[tuple[int, int, int]]:
    cells = curriculum.false_at(step, curriculum.phase_at(step))
    return {
        (mine, row if row >= 0 else -2 - row, column)
        for mine, of in enumerate(cells)
        for column, rows in enumerate(of)
        for row in rows
        if row != -1
    }


@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(1, 4)),
            st.integers(0, 9),
            st.integers(0, 15),
            st.sampled_from("abc"),
            st.sampled_from([None, "g", "h"]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(2, 5),
    st.integers(0, 3),
)
@settings(max_examples=40)
def test_whatever_is_false_in_a_batch_does_not_count(
    items: list[tuple[set[int], int, int, str, str | None]], size: int, seed: int
) -> None:
    tuples = [
        replace(graded(i, tuple(sorted(g)), f"q{query}", task), positive=f"p{positive}", group=group)
        for i, (g, query, positive, task, group) in enumerate(items)
    ]
    sections = phases([1], [2, 4], [])
    kinds = [{t.query for t in tuples}, {t.positive for t in tuples}, {t.group or t.id for t in tuples}]
    if min(map(len, kinds)) < 2:
        with pytest.raises(DataError, match="found 1 tuple that can share a batch"):
            plan(tuples, sections, size, seed)
        return
    curriculum = plan(tuples, sections, size, seed)
    again = plan(tuples, sections, size, seed)
    assert rows(again) == rows(curriculum)
    assert curriculum.steps == 9
    for step, batch in enumerate(rows(curriculum)):
        grades = sections[curriculum.phase_at(step)].grades
        assert len(batch) == len({row.id for row in batch}) == min(size, len(tuples))
        assert false_as_planned(curriculum, step) == false_by_definition(curriculum, batch, step)
        for row in batch:
            assert all(d.grade in (0, grade) for d, grade in zip(row.documents[1:], grades, strict=True))


def test_schedules_differ_in_the_negatives_alone() -> None:
    tuples = [graded(i, (1, 2, 3, 4)) for i in range(12)]
    one, other = (plan(tuples, sections, 3) for sections in (phases([1], [4]), phases([4], [1, 2])))
    assert (one.places == other.places).all()
    assert [[row.id for row in batch] for batch in rows(one)] == [[row.id for row in batch] for batch in rows(other)]


def test_many_tuples_of_one_query_do_not_look_like_too_few() -> None:
    tuples = [graded(0, (1,), "q0"), graded(1, (1,), "q0"), graded(2, (1,), "q1")]
    assert plan(tuples, phases([1], [1], [], steps=20), 2).steps == 60


def test_each_tuple_is_used_before_any_is_used_again() -> None:
    tuples = [graded(i, (1, 2, 3, 4)) for i in range(12)]
    curriculum = plan(tuples, phases([1], [4], steps=2), 3)
    assert sorted(row.query for batch in rows(curriculum) for row in batch) == sorted(t.query for t in tuples)
    assert (plan(tuples, phases([1]), 3, seed=1).places != plan(tuples, phases([1]), 3, seed=2).places).any()


def test_a_missing_grade_is_a_document_without_weight() -> None:
    tuples = [graded(0, (1, 3)), graded(1, ())]
    curriculum = plan(tuples, phases([1, 4], steps=1), 2)
    found = {row.id: row.documents for row in rows(curriculum)[0]}
    assert found["0"][:2] == (Document("p0", POSITIVE, 0.9, 1.0), Document("n0 of 1", 1, 0.25, 1.0))
    for document, text in ((found["0"][2], "p0"), (found["1"][1], "p1"), (found["1"][2], "p1")):
        assert (document.text, document.grade, document.weight) == (text, 0, 0.0)
        assert math.isnan(document.score)


def test_all_negatives_of_a_grade_have_their_turn() -> None:
    several = tuple(Negative(f"n{i}", 2, 0.5, "mined") for i in range(3))
    tuples = [GradedTuple(str(i), f"q{i}", f"p{i}", several) for i in range(2)]
    curriculum = plan(tuples, phases([2], steps=4), 2)
    texts = [row.documents[1].text for batch in rows(curriculum) for row in batch if row.id == "0"]
    assert texts == ["n0", "n1", "n2", "n0"]
    four = plan(tuples, phases([2, 2, 2, 2], steps=1), 2)
    assert [d.weight for d in rows(four)[0][0].documents] == [1.0, 1.0, 1.0, 1.0, 0.0]  # there are three
    twice = plan(tuples, phases([2, 2], steps=2), 2)
    assert [[d.text for d in batch[0].documents[1:]] for batch in rows(twice)] == [["n0", "n1"], ["n1", "n2"]]


def test_weights_move_within_a_phase() -> None:
    section = PhaseSection(name="a", grades=[1, 2], steps=4, weights=[1, 0], weights_end=[0, 1])
    curriculum = plan([graded(i, (1, 2)) for i in range(4)], [*phases([1], steps=2), section], 2)
    weights = [[d.weight for d in batch[0].documents] for batch in rows(curriculum)[2:]]
    assert weights == [[1, 0.875, 0.125], [1, 0.625, 0.375], [1, 0.375, 0.625], [1, 0.125, 0.875]]


def test_one_grade_at_a_time_gives_each_as_often() -> None:
    section = PhaseSection(
        name="random", grades=[1, 2, 3, 4], steps=40, one_at_a_time=True, weights=[0.1, 0.2, 0.3, 0.4]
    )
    curriculum = plan([graded(i, (1, 2, 3, 4)) for i in range(8)], [*phases([1], steps=5), section], 2)
    grades = [batch[0].documents[1].grade for batch in rows(curriculum)[5:]]
    assert [grades.count(grade) for grade in (1, 2, 3, 4)] == [10, 10, 10, 10]
    assert grades != sorted(grades)
    assert all(len({row.documents[1].grade for row in batch}) == 1 for batch in rows(curriculum))
    assert all(
        row.documents[1].weight == row.documents[1].grade / 10 for batch in rows(curriculum)[5:] for row in batch
    )


def test_batches_hold_one_task_each_in_proportion() -> None:
    tasks = ["a"] * 24 + ["b"] * 12 + ["c", "d"]
    tuples = [graded(i, (1,), task=task) for i, task in enumerate(tasks)]
    curriculum = plan(tuples, phases([1], steps=19), 2)
    found = [{tuples[place].task for place in batch} for batch in curriculum.places]
    assert [found.count({"a"}), found.count({"b"}), found.count({"c", "d"})] == [12, 6, 1]
    mixed = plan(tuples, phases([1], steps=19), 2, by_task=False)
    assert any(len({tuples[place].task for place in batch}) == 2 for batch in mixed.places)


def test_a_rest_too_small_for_a_batch_joins_the_largest_task() -> None:
    tuples = [graded(i, (1,), task=task) for i, task in enumerate(["a"] * 8 + ["b"])]
    curriculum = plan(tuples, phases([1], steps=9), 2)
    assert 8 in curriculum.places


def test_negatives_as_relevant_as_the_positive_do_not_count() -> None:
    tuples = [graded(0, (1, 3)), graded(1, (1, 3))]
    planned = plan(tuples, phases([1, 3], steps=1), 2)
    curriculum = replace(planned, false_negative_above=0.8)  # 0.75 >= 0.8 * 0.9
    assert [[d.weight for d in row.documents] for row in rows(curriculum)[0]] == [[1.0, 1.0, 0.0]] * 2


def test_a_positive_among_its_negatives_is_named() -> None:
    wrong = GradedTuple("x7", "q", "The cat", (Negative("the  cat", 3, 0.9, "llm"),))
    with pytest.raises(DataError, match="the positive of tuple x7 is also one of its negatives"):
        plan([wrong, graded(1, (1,))], phases([1]), 2)


def test_a_batch_larger_than_the_data_holds_all_of_them() -> None:
    curriculum = plan([graded(i, (1,)) for i in range(3)], phases([1]), 64)
    assert curriculum.batch_size == 3
    assert all(sorted(batch) == [0, 1, 2] for batch in curriculum.places)


@pytest.mark.parametrize(
    "tuples",
    [
        [graded(0, (1,))],
        [graded(i, (1,), "one query") for i in range(9)],
        [replace(graded(i, (1,)), positive="one positive") for i in range(9)],
        [replace(graded(i, (1,)), group="one group") for i in range(9)],
    ],
)
def test_no_two_tuples_can_stand_together(tuples: list[GradedTuple]) -> None:
    with pytest.raises(DataError, match="found 1 tuple that can share a batch .*; a batch needs 2. Give more"):
        plan(tuples, phases([1]), 4)


def test_many_positives_a_query_fill_a_large_batch() -> None:
    """112 queries with eight positives each: no 64 tuples without a false negative, so some that are masked join."""
    tuples = [GradedTuple(f"{q}.{n}", f"q{q}", f"p{(q + 7 * n) % 120}", ()) for q in range(112) for n in range(8)]
    curriculum = plan(tuples, phases([], steps=28), 64)
    assert curriculum.batch_size == 64
    counts = [(curriculum.places == place).sum() for place in range(len(tuples))]
    assert sum(counts) == 28 * 64
    assert min(counts) > 0
    assert all(len(set(batch)) == 64 for batch in curriculum.places.tolist())
    for step in (0, 27):
        assert false_as_planned(curriculum, step) == false_by_definition(curriculum, rows(curriculum)[step], step)


def test_known_answers_of_a_query_are_no_negatives_of_it() -> None:
    """Query q has two positives: the other stands neither in its batch, in whatever place, nor among its negatives."""
    first = GradedTuple("0", "q", "p0", (Negative("p1", 3, 0.9, "mined"), Negative("n", 1, 0.1, "mined")))
    second = GradedTuple("1", "q", "p1", ())
    shares = GradedTuple("2", "r", "p1", (Negative("x", 1, 0.1, "mined"),))
    mined = GradedTuple("3", "s", "p3", (Negative("p1", 4, 0.9, "mined"),))
    others = [graded(i, (1,)) for i in (4, 5, 6)]
    curriculum = plan([first, second, shares, mined, *others], phases([1, 3], steps=40), 2)
    for batch in rows(curriculum):
        ids = {row.id for row in batch}
        assert not ids >= {"0", "2"}
        assert not ids >= {"0", "3"}
    assert {d.weight for batch in rows(curriculum) for row in batch for d in row.documents if d.text == "p1"} <= {
        0.0,
        1.0,
    }
    own = next(row for batch in rows(curriculum) for row in batch if row.id == "0")
    assert [(d.text, d.weight) for d in own.documents] == [("p0", 1.0), ("n", 1.0), ("p1", 0.0)]


def test_texts_that_differ_in_case_or_width_are_the_same() -> None:
    same = [
        ("Who is IT", "p0"),
        ("who is it", "p1"),
        ("\uff37\uff48\uff4f  is it", "p2"),
        ("q3", "P0"),
        ("q4", "\uff30\uff10"),
    ]
    tuples = [GradedTuple(str(i), query, positive, ()) for i, (query, positive) in enumerate(same)]
    tuples += [graded(i, (1,)) for i in range(5, 12)]
    curriculum = plan(tuples, phases([], steps=60), 2)
    for batch in curriculum.places.tolist():
        assert len({0, 1, 2, *batch}) > 3
        assert len({0, 3, 4, *batch}) > 3
    whole = plan(tuples, phases([], steps=1), 12)
    at = {place: row for row, place in enumerate(whole.places[0].tolist())}
    everyone, others = {(mine, row) for mine in (0, 1, 2) for row in (0, 1, 2, 3, 4)}, {(3, 0), (3, 4), (4, 0), (4, 3)}
    expected = {(at[mine], at[row], 0) for mine, row in everyone | others if mine != row}
    assert false_as_planned(whole, 0) == expected
    trained, held = hold_out([t for t in tuples if t.id in "012"], 7)
    assert (len(trained), len(held)) == (0, 3)


def test_known_pairs_that_are_not_trained_on_count_too() -> None:
    """The held-out or ungraded answers of a query: beside it, and among its own negatives."""
    own = GradedTuple("0", "q", "p0", (Negative("Hidden  answer", 3, 0.9, "mined"), Negative("n", 1, 0.1, "mined")))
    mined = GradedTuple("1", "r", "p1", (Negative("hidden answer", 4, 0.9, "mined"),))
    tuples = [own, mined, *(graded(i, (1,)) for i in range(2, 6))]
    known = known_false_negatives(tuples, [Pair("a", "Q", "HIDDEN answer"), Pair("b", "of nobody", "n")])
    curriculum = plan(tuples, phases([1, 3], steps=40), 2, known=known)
    assert not any({0, 1} == set(batch) for batch in curriculum.places.tolist())
    row = next(row for batch in rows(curriculum) for row in batch if row.id == "0")
    assert [(d.text, d.weight) for d in row.documents] == [("p0", 1.0), ("n", 1.0), ("Hidden  answer", 0.0)]
    whole = plan(tuples, phases([4], steps=1), 6, known=known)
    at = {place: position for position, place in enumerate(whole.places[0].tolist())}
    assert false_as_planned(whole, 0) == {(at[0], at[1], 1)}


def test_tuples_of_one_group_are_no_negatives_of_each_other() -> None:
    tuples = [replace(graded(i, (1,)), group=f"intent {i % 6}") for i in range(30)]
    tuples[0] = replace(tuples[0], negatives=(Negative("of intent 1", 1, 0.2, "mined"),))
    apart = plan(tuples, phases([], steps=20), 4)
    assert all(len({tuples[place].group for place in batch}) == 4 for batch in apart.places)
    known = known_false_negatives(tuples, [Pair("x", "?", "of intent 1", group="intent 1")])
    together = plan(tuples, phases([1], steps=1), 30, known=known)
    at = together.places[0].tolist()
    same = {(mine, row, 0) for mine in range(30) for row in range(30) if at[mine] % 6 == at[row] % 6 and mine != row}
    negative = {(mine, at.index(0), 1) for mine in range(30) if at[mine] % 6 == 1}
    assert false_as_planned(together, 0) == same | negative
    assert known_false_negatives(tuples, (), [Passage("d", "OF intent 1", group="intent 1")]).groups == known.groups


def test_groups_have_their_share_of_a_batch() -> None:
    """A rare group is not drawn more often than others because it fits more often."""
    groups = ["large"] * 90 + [f"small {i}" for i in range(10)]
    tuples = [replace(graded(i, (1,)), group=group) for i, group in enumerate(groups)]
    curriculum = plan(tuples, phases([], steps=100), 10)
    large = (curriculum.places < 90).sum(axis=1)
    assert large.sum() == pytest.approx(900, abs=10)
    assert large.max() == 9


def test_a_common_text_makes_nobody_wait_for_ever() -> None:
    """Half of the tuples share a positive; the planning stays linear, and the others are not used up meanwhile."""
    hub = [GradedTuple(f"h{i}", f"hq{i}", "hub", ()) for i in range(300)]
    tuples = hub + [graded(i, (1,)) for i in range(300)]
    started = time.process_time()
    curriculum = plan(tuples, phases([], steps=3000), 8)
    assert time.process_time() - started < 30
    assert ((curriculum.places < 300).sum(axis=1) <= 1).all()


def test_what_stands_with_nobody_is_trained_on_too() -> None:
    """One tuple has the answers of all other queries among its negatives, which do not count for them."""
    answers = [f"{query}{i}" for query in "abc" for i in range(2)]
    lonely = GradedTuple("x", "x", "px", tuple(Negative(text, 2, 0.5, "mined") for text in answers))
    tuples = [lonely, *(GradedTuple(text, text[0], text, ()) for text in answers)]
    curriculum = plan(tuples, phases([2], steps=9), 3)
    assert curriculum.places.shape == (9, 3)
    assert (curriculum.places == 0).any()
    for step, batch in enumerate(rows(curriculum)):
        assert false_as_planned(curriculum, step) == false_by_definition(curriculum, batch, step)


def test_what_is_held_out_is_not_trained_on() -> None:
    tuples = [graded(i, (1,), f"q{i // 2}") for i in range(80)]
    trained, held = hold_out(tuples, 7)
    assert len(held) == 8
    assert not {t.query for t in trained} & {t.query for t in held}
    assert sorted([*trained, *held], key=lambda t: int(t.id)) == tuples
    assert hold_out(tuples, 7) == (trained, held)
    assert hold_out(tuples, 8)[1] != held
