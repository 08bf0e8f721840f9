from hypothesis import given
from hypothesis import strategies as st

from multigrain.grades import FALSE_NEGATIVE, grade_of, relative_relevance

BOUNDS = (0.35, 0.6, 0.8, 0.95)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_grades_rise_with_relevance(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert grade_of(low, BOUNDS) <= grade_of(high, BOUNDS)


def test_an_irrelevant_positive_makes_every_candidate_a_suspect() -> None:
    assert grade_of(relative_relevance(0.1, 0.0), BOUNDS) == FALSE_NEGATIVE
    assert grade_of(relative_relevance(0.1, -0.2), BOUNDS) == FALSE_NEGATIVE
