import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.errors import LLMReplyError
from multigrain.grading.calibration import RATINGS, Calibration, calibrate
from multigrain.llm.protocol import Answer
from multigrain.synthesis.verdicts import read_rating

ratings = st.lists(st.sampled_from(RATINGS), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("2", 2),
        (" 0\n", 0),
        ("3.", 3),
        ("**2**", 2),
        ("2/3", 2),
        ("1 - on the topic only", 1),
        ("Rating: 2", 2),
        ("rating = 0", 0),
        ("The rating is 3.", 3),
        ("**Rating:** 2", 2),
        ("**Rating: 2** (answers in part)", 2),
        ("Score: 1/3", 1),
        ("Rating: 2, because it names the dose of 5 mg.", 2),
        ('{"rating": 2}', 2),
        ('{"rating": "2"}', 2),
        ('```json\n{"reason": "It says 40 mg.", "rating": 3}\n```', 3),
        ("1. It names the drug.\n2. It names the dose.\nRating: 2", 2),
        ("Rating: 2\n\nThe passage says 12 times what the query asks. So the rating is 2.", 2),
    ],
)
def test_ratings(text: str, rating: int) -> None:
    assert read_rating(Answer(text)) == rating


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "4",
        "-1",
        "2.5",
        "2 or 3",
        "2-3",
        "0123",
        "Rating: 2 or 3",
        "Rating: 2-3",
        "Rating: 10",
        "Rating: 2.5",
        "Rating: 7",
        "Rating: two",
        "Rating: 1\nRating: 2",
        "Rating: 2\nRating: 9",
        "The passage answers the query.",
        "There are 2 reasons and 3 examples.",
        '{"rating": null}',
        '{"rating": 12}',
        '{"ratings": 2}',
    ],
)
def test_what_is_no_rating(text: str) -> None:
    with pytest.raises(LLMReplyError, match="no single rating of 0 to 3"):
        read_rating(Answer(text))


@given(st.text(alphabet='rating: 0123456789.,/-"{}*\n', max_size=40))
def test_any_answer_is_a_rating_or_an_error(text: str) -> None:
    with suppress(LLMReplyError):
        assert read_rating(Answer(text)) in RATINGS


@given(st.integers(0, 10**6))
def test_only_the_four_numbers_are_ratings(number: int) -> None:
    for text in (str(number), f"Rating: {number}", json.dumps({"rating": number})):
        if number in RATINGS:
            assert read_rating(Answer(text)) == number
        else:
            with pytest.raises(LLMReplyError):
                read_rating(Answer(text))


def test_calibration_by_hand() -> None:
    # t=1: (1 + 2/5)/2 = 0.7; t=2: (3/4 + 1)/2 = 0.875; t=3: (2/4 + 1)/2 = 0.75
    assert calibrate([3, 3, 2, 1], [0, 0, 1, 1, 1]) == Calibration(2, 0.875, 4)
    assert calibrate([3, 3], [0, 0]).threshold == 1, "of equals the one that lets fewest false negatives pass"
    assert not calibrate([3] * 9, [0] * 9).is_usable, "too few to know"
    assert calibrate([3] * 10, [0] * 10).is_usable
    assert not calibrate([2] * 50, [2] * 50).is_usable
    assert [calibrate([3, 2], [1]).answers(rating) for rating in RATINGS] == [False, False, True, True]
    with pytest.raises(ValueError, match="known positives"):
        calibrate([], [0])


@given(ratings, ratings)
def test_no_threshold_is_better_and_no_lower_one_as_good(relevant: list[int], irrelevant: list[int]) -> None:
    def accuracy(threshold: int) -> float:
        hits = [rating >= threshold for rating in relevant]
        rejections = [rating < threshold for rating in irrelevant]
        return (sum(hits) / len(hits) + sum(rejections) / len(rejections)) / 2

    found = calibrate(relevant, irrelevant)
    assert found.accuracy == pytest.approx(accuracy(found.threshold), abs=1e-4)
    assert all(accuracy(other) <= accuracy(found.threshold) for other in RATINGS[1:])
    assert all(accuracy(other) < accuracy(found.threshold) for other in range(1, found.threshold))
    assert calibrate(sorted(relevant), sorted(irrelevant)) == found


@given(ratings)
def test_a_judge_that_rates_both_sides_alike_is_at_chance(both: list[int]) -> None:
    assert calibrate(both, both).accuracy == 0.5
