"""Successive halving: which recipes go on, and whether one is taken."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.experiments.halving import challenge, is_decided, shares_of, standings

Values = st.lists(st.floats(0, 1, allow_nan=False), min_size=6, max_size=6)


@settings(max_examples=25)
@given(st.lists(Values, min_size=1, max_size=6), st.integers(1, 4))
def test_the_settings_as_they_are_go_on_and_never_more_than_there_is_place_for(
    values: list[list[float]], places: int
) -> None:
    found = standings(dict(enumerate(values)), places)
    assert found.keys() == set(range(len(values)))
    assert found[0].fate == "goes on"
    others = [found[number] for number in found if number and found[number].fate == "goes on"]
    assert len(others) <= places
    means = [standing.mean for standing in found.values()]
    assert means == sorted(means, reverse=True)
    for number, standing in found.items():
        is_behind = standing.to_best is not None and standing.to_best.high < 0
        assert (standing.fate == "clearly worse") == (is_behind and number != 0)
        if standing.fate == "lower half":  # nobody that is worse goes on in its place
            assert all(other.mean >= standing.mean for other in others)


def test_one_that_is_clearly_worse_takes_no_place() -> None:
    one, other = np.full(50, 0.6), np.full(50, 0.6)
    one[:25] += 0.01
    other[25:] += 0.009
    found = standings({0: np.full(50, 0.1), 1: one, 2: other, 3: np.full(50, 0.2)}, places=2)
    assert [(number, standing.fate) for number, standing in found.items()] == [
        (1, "goes on"),
        (2, "goes on"),
        (3, "clearly worse"),
        (0, "goes on"),
    ]


def test_the_interval_is_that_of_paired_queries() -> None:
    # Each query is harder or easier for both alike, and the one is better by 0.01 on each: no doubt is left.
    base = np.random.default_rng(0).uniform(0, 1, 40)
    best = challenge({0: base, 1: base + 0.01, 2: base - 0.3})
    assert best is not None
    number, difference = best
    assert number == 1
    assert difference == pytest.approx((0.01, 0.01, 0.01))
    assert is_decided({0: base, 1: base + 0.01}) and is_decided({0: base, 1: base - 0.01}) and is_decided({0: base})
    # Better on half of the queries and worse on the other: more queries are wanted.
    assert not is_decided({0: base, 1: base + np.where(np.arange(40) % 2, 0.2, -0.19)})


def test_two_trainings_that_disagree_decide_nothing() -> None:
    base = np.full(30, 0.5)
    found = challenge({0: [base, base], 1: [base + 0.1, base - 0.08]})
    assert found is not None and found[1].value == pytest.approx(0.01) and found[1].low < 0 < found[1].high


@given(st.integers(1, 10_000), st.integers(1, 50))
def test_the_first_round_is_not_shorter_than_it_may_be(steps: int, fewest: int) -> None:
    shares = shares_of(steps, fewest)
    assert shares[-1] == 1 and all(later == 2 * share for share, later in itertools.pairwise(shares))
    assert shares[0] * steps >= min(fewest, steps)
    assert shares[0] * steps / 2 < fewest
