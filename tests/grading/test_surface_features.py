import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.grading.surface_features import FEATURES, statistics_of, surface


def features(text: str) -> dict[str, float]:
    return dict(zip(FEATURES, surface(text), strict=True))


def test_features_by_hand() -> None:
    found = features("the Cat (12) sat, and the cat sat.\n- Why?")
    assert (found["characters"], found["words"], found["sentences"], found["lines"]) == (41, 10, 2, 2)
    assert (found["list marks"], found["words a sentence"]) == (1, 5)
    assert found["digits"] == 2 / 41
    assert found["upper case"] == 2 / 24
    assert found["short words"] == 6 / 10  # the signs at a word count: "sat," has 4
    assert found["distinct words"] == 9 / 10 - 1 / 10  # "the" and "cat" come twice
    assert (found["begins in lower case"], found["ends with a full stop"]) == (1, 0)
    assert (found["commas"], found["brackets"], found["question marks"]) == pytest.approx(
        (100 / 41, 200 / 41, 100 / 41)
    )


def test_full_stops_of_other_scripts_end_sentences() -> None:
    found = features("治疗持续两周。可以在家中进行。")
    assert (found["sentences"], found["ends with a full stop"]) == (2, 1)
    assert features("It took 2.5 h, e.g. at 3.10 p.m. on day 1.")["ends with a full stop"] == 1


@given(st.text())
def test_any_text_has_finite_features(text: str) -> None:
    found = surface(text)
    assert len(found) == len(FEATURES)
    assert all(0 <= value < 1e6 for value in found)


def test_statistics_by_hand() -> None:
    found = statistics_of(["One.", "One two.", "One two three.", "one two three four", "One two three four five."])
    assert found["texts"] == 5
    assert found["words"] == [2, 3, 4]
    assert found["ends with a full stop"] == 0.8
    assert json.loads(json.dumps(found)) == found
    assert statistics_of([]) == {"texts": 0}
    assert statistics_of(iter(["one two"]))["words"] == [2, 2, 2]
