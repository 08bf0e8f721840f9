from hypothesis import given
from hypothesis import strategies as st

from multigrain.records import grade_of

BOUNDS = (0.35, 0.6, 0.8, 0.95)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_grades_rise_with_relevance(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert grade_of(low, BOUNDS) <= grade_of(high, BOUNDS)
