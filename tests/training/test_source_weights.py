"""How many steps each source gets, and that batches hold one source each."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from multigrain.config import PhaseSection
from multigrain.config.data import DataSection, SourceSection
from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative, Pair
from multigrain.training.batch_planning import shares_of_training
from multigrain.training.curriculum import Curriculum, plan


def tuples(**counts: int) -> list[GradedTuple]:
    found = []
    for source, count in counts.items():
        for i in range(count):
            id = f"{source}/{i}"
            negative = Negative(f"n{id}", 4, 0.5, "mined")
            found.append(GradedTuple(id, f"q{id}", f"p{id}", (negative,), source=source))
    return found


def planned(
    all_tuples: list[GradedTuple], weights: Mapping[str, float] | None, steps: int, size: int = 4
) -> Curriculum:
    return plan(all_tuples, [PhaseSection(name="a", grades=[4], steps=steps)], size, weights=weights)


def steps_of(curriculum: Curriculum) -> dict[str, int]:
    """The number of steps of each source; each step has one."""
    steps = Counter[str]()
    for step in range(curriculum.steps):
        (source,) = {id.partition("/")[0] for id in curriculum.ids_at(step)}
        steps[source] += 1
    return dict(steps)


def shares(exponent: float = 1.0, weights: tuple[float, ...] = (), **counts: int) -> dict[str, float]:
    given: tuple[float | None, ...] = weights or (None,) * len(counts)
    sources = [SourceSection(name=n, pairs="p", weight=w) for n, w in zip(counts, given, strict=True)]
    return DataSection(sources=sources, weight_exponent=exponent).shares(counts) or {}


def test_steps_follow_the_weights_and_not_the_sizes() -> None:
    weights = shares(weights=(3.0, 1.0), a=40, b=400)
    assert weights == {"a": 0.75, "b": 0.25}
    assert steps_of(planned(tuples(a=40, b=400), weights, steps=100)) == {"a": 75, "b": 25}


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(1.0, {"a": 90, "b": 10}), (0.5, {"a": 75, "b": 25}), (0.0, {"a": 50, "b": 50})],
)
def test_without_weights_shares_are_powers_of_the_sizes(exponent: float, expected: dict[str, int]) -> None:
    weights = shares(exponent, a=360, b=40)
    assert steps_of(planned(tuples(a=360, b=40), weights, steps=100)) == expected


def test_at_any_step_each_source_is_less_than_one_batch_from_its_share() -> None:
    weights = shares(weights=(5.0, 2.0, 1.0), a=30, b=20, c=50)
    curriculum = planned(tuples(a=30, b=20, c=50), weights, steps=80)
    sources = [curriculum.ids_at(step)[0].partition("/")[0] for step in range(80)]
    for step in range(1, 81):
        for name, share in weights.items():
            assert abs(sources[:step].count(name) - share * step) < 1.0 + 1e-9
    assert Counter(sources) == {"a": 50, "b": 20, "c": 10}


def test_each_tuple_of_a_source_is_used_before_any_is_used_again() -> None:
    curriculum = planned(tuples(a=40, b=8), {"a": 0.5, "b": 0.5}, steps=20)
    used = Counter(id for step in range(20) for id in curriculum.ids_at(step))
    assert {used[f"a/{i}"] for i in range(40)} == {1}
    assert {used[f"b/{i}"] for i in range(8)} == {5}


def test_tasks_of_a_source_divide_its_share() -> None:
    some = [replace(graded, task="x" if int(graded.id[2:]) < 30 else "y") for graded in tuples(a=40)]
    curriculum = planned([*some, *tuples(b=400)], {"a": 0.8, "b": 0.2}, steps=100)
    tasks = Counter(curriculum.tuples[curriculum.places[step][0]].task for step in range(100))
    assert tasks == {"x": 60, "y": 20, None: 20}


def test_a_source_of_weight_0_is_not_trained_on() -> None:
    weights = shares(weights=(1.0, 0.0), a=40, b=400)
    assert steps_of(planned(tuples(a=40, b=400), weights, steps=10)) == {"a": 10}
    with pytest.raises(DataError, match="0 tuples that can share a batch"):
        planned(tuples(b=400), shares(weights=(1.0, 0.0), a=0, b=400), steps=10)


def used_of(curriculum: Curriculum) -> Counter[str]:
    """How often the tuples of each source are trained on."""
    return Counter(id.partition("/")[0] for step in range(curriculum.steps) for id in curriculum.ids_at(step))


def test_a_source_too_small_for_a_batch_shares_batches(capsys: pytest.CaptureFixture[str]) -> None:
    curriculum = planned(tuples(a=40, b=3, c=20), {"a": 0.4, "b": 0.2, "c": 0.4}, steps=50)
    assert used_of(curriculum) == {"a": 80, "b": 40, "c": 80}
    assert "too few tuples for a batch of 4 share batches: a + b" in capsys.readouterr().err
    for step in range(curriculum.steps):
        assert len(set(curriculum.ids_at(step))) == 4


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 3.0), (5.0, 1.0, 1.0), (1.0, 1.0, 7.0)])
@pytest.mark.parametrize("counts", [(90, 5, 4), (9, 5, 3), (50, 12, 13), (5, 5, 5)])
def test_the_shares_of_the_configuration_are_those_of_the_training(
    counts: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    """Whatever share batches: each source has its share of the tuples, up to one batch of each group.

    If a batch holds all tuples of a source, it can have no more of them. `check` tells the share that is left.
    """
    by_source = dict(zip("abc", counts, strict=True))
    promised, all_tuples = shares(weights=weights, **by_source), tuples(**by_source)
    curriculum = planned(all_tuples, promised, steps=200, size=10)
    used = used_of(curriculum)
    pairs = [Pair(graded.id, graded.query, graded.positive, graded.source) for graded in all_tuples]
    told = shares_of_training(pairs, curriculum.batch_size, True, promised)
    for name, share in promised.items():
        assert abs(used[name] - told[name] * used.total()) <= 10 + 1
        if told[name] < share - 1e-9:
            steps = [set(curriculum.ids_at(step)) for step in range(200)]
            assert all(sum(id[0] == name for id in ids) in (0, by_source[name]) for ids in steps)


def test_what_a_source_cannot_fill_goes_to_the_others_by_their_weights() -> None:
    """By hand: b has 2 tuples and is due 6 of 10 slots; a and c share the other 8 as 3 to 1."""
    curriculum = planned(tuples(a=8, b=2, c=9), {"a": 0.3, "b": 0.6, "c": 0.1}, steps=10, size=10)
    assert used_of(curriculum) == {"a": 60, "b": 20, "c": 20}


def test_tasks_of_small_sources_divide_their_shares() -> None:
    some = [replace(graded, task="x" if graded.source == "a" else "y") for graded in tuples(a=40, b=3, c=2)]
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    used = used_of(planned(some, weights, steps=100))
    assert used == {"a": 200, "b": 120, "c": 80}


def test_two_small_sources_fill_batches_together(capsys: pytest.CaptureFixture[str]) -> None:
    curriculum = planned(tuples(a=40, b=3, c=3), {"a": 0.5, "b": 0.25, "c": 0.25}, steps=40)
    used = Counter(id.partition("/")[0] for step in range(40) for id in curriculum.ids_at(step))
    assert used["a"] == 80
    assert used["b"] == used["c"] == 40
    assert "share batches: b + c" in capsys.readouterr().err


def test_tuples_without_source_are_planned_as_before() -> None:
    bare = [replace(graded, source=None) for graded in tuples(a=40)]
    of_one = planned(bare, None, steps=10)
    assert (planned(tuples(a=40), None, steps=10).places == of_one.places).all()
