import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import PhaseSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative
from multigrain.training.curriculum import Row, plan


def graded(index: int, grades: tuple[int, ...], query: str | None = None) -> GradedTuple:
    negatives = tuple(Negative(f"n{index} of {grade}", grade, grade / 4, "llm") for grade in grades)
    return GradedTuple(str(index), query or f"q{index}", f"p{index}", negatives)


def phases(*grades: list[int], steps: int = 3) -> list[PhaseSection]:
    return [PhaseSection(name=str(i), grades=g, steps=steps) for i, g in enumerate(grades)]


@given(
    st.lists(st.tuples(st.sets(st.integers(1, 4)), st.integers(0, 9)), min_size=16, max_size=30),
    st.integers(2, 4),
    st.integers(0, 3),
)
def test_every_batch_can_stand(items: list[tuple[set[int], int]], size: int, seed: int) -> None:
    tuples = [graded(i, tuple(sorted(grades)), f"q{query}") for i, (grades, query) in enumerate(items)]
    sections = phases([1], [2, 4], [])
    try:
        curriculum = plan(tuples, sections, size, seed)
    except DataError:
        assert len({t.query for t in tuples if t.negatives}) < size
        return
    assert curriculum == plan(tuples, sections, size, seed)
    assert curriculum.steps == 9
    for phase in curriculum.phases:
        for batch in phase.batches:
            assert len(batch) == size
            assert len({row.query for row in batch}) == len({row.positive for row in batch}) == size
            assert all(len(row.negatives) == len(phase.grades) for row in batch)


def test_many_tuples_of_one_query_do_not_look_like_too_few() -> None:
    tuples = [graded(0, (1,), "q0"), graded(1, (1,), "q0"), graded(2, (1,), "q1")]
    assert plan(tuples, phases([1], [1], [], steps=20), 2).steps == 60


def test_each_tuple_is_used_before_any_is_used_again() -> None:
    tuples = [graded(i, (1, 2, 3, 4)) for i in range(12)]
    curriculum = plan(tuples, phases([1], [4], steps=2), 3)
    rows = [row for phase in curriculum.phases for batch in phase.batches for row in batch]
    assert sorted(row.query for row in rows) == sorted(t.query for t in tuples)
    assert plan(tuples, phases([1]), 3, seed=1) != plan(tuples, phases([1]), 3, seed=2)


def test_a_missing_grade_is_filled_by_the_nearest() -> None:
    tuples = [graded(0, (1, 3)), graded(1, (4,))]
    (phase,) = plan(tuples, phases([2, 4], steps=1), 2).phases
    assert set(phase.batches[0]) == {Row("q0", "p0", ("n0 of 1", "n0 of 3")), Row("q1", "p1", ("n1 of 4", "n1 of 4"))}


def test_tuples_without_negatives_serve_in_batch_training_alone() -> None:
    tuples = [graded(0, ()), graded(1, ())]
    assert plan(tuples, phases([]), 2).steps == 3
    with pytest.raises(DataError, match="found 0 tuples .* a batch needs 2"):
        plan(tuples, phases([1]), 2)


def test_a_star_of_pairs_ends_with_a_message() -> None:
    """One query with many positives, one positive with many queries: many texts, but no batch of three."""
    star = [GradedTuple(f"a{i}", "hub query", f"p{i}", ()) for i in range(9)]
    star += [GradedTuple(f"b{i}", f"q{i}", "hub positive", ()) for i in range(9)]
    with pytest.raises(DataError, match="found 2 tuples with different queries and positives; a batch needs 3"):
        plan(star, phases([]), 3)
