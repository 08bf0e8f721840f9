import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.records import folded, grade_of, identity

BOUNDS = (0.35, 0.6, 0.8, 0.95)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who  is\n it", "who is it"),
        ("\uff37\uff48\uff4f\u3000is it\uff1f", "who is it?"),
        ("\uff76\uff9e\uff7d", "\u30ac\u30b9"),  # half-width katakana with its mark
        ("cliche\u0301s", "CLICH\u00c9S"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_the_same_text_for_a_reader(one: str, other: str) -> None:
    assert folded(one) == folded(other)
    assert identity(one) == identity(other)


def test_other_forms_of_a_character_are_other_texts() -> None:
    assert folded("10\u00b2") != folded("102")
    assert identity("\ud800 half a surrogate") == identity("\ud800 Half a surrogate")


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_grades_rise_with_relevance(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert grade_of(low, BOUNDS) <= grade_of(high, BOUNDS)
