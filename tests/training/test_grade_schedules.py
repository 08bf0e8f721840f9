from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import PhaseSection, TrainingSection
from multigrain.errors import ConfigError
from multigrain.training.grade_schedules import drawn, phases_of


def schedule(name: str, steps: int = 8, grades: tuple[int, ...] = (1, 2, 3, 4)) -> list[tuple[list[int], int | None]]:
    section = TrainingSection.model_validate({"schedule": name, "steps": steps})
    return [(phase.grades, phase.steps) for phase in phases_of(section, grades)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coarse-to-fine", [([1], 2), ([2], 2), ([3], 2), ([4], 2)]),
        ("reverse", [([4], 2), ([3], 2), ([2], 2), ([1], 2)]),
        ("random", [([1, 2, 3, 4], 8)]),
        ("all-at-once", [([1, 2, 3, 4], 8)]),
        ("only-3", [([3], 8)]),
        ("in-batch", [([], 8)]),
        ("overlapping", [([1], 2), ([1, 2], 2), ([2, 3], 2), ([3, 4], 2)]),
        ("annealed", [([1, 2], 3), ([2, 3], 3), ([3, 4], 2)]),
    ],
)
def test_presets(name: str, expected: list[tuple[list[int], int]]) -> None:
    assert schedule(name) == expected


def test_presets_are_made_of_the_grades_that_are_there() -> None:
    assert schedule("coarse-to-fine", 5, (2, 4)) == [([2], 3), ([4], 2)]
    assert schedule("annealed", 5, (2, 4)) == [([2, 4], 5)]
    assert schedule("overlapping", 5, (4,)) == [([4], 5)]
    assert schedule("coarse-to-fine", 5, ()) == [([], 5)]


def test_lists_of_a_teacher_are_one_phase_whatever_grades_there_are() -> None:
    teacher = {"kind": "fused", "documents": 4}
    section = TrainingSection.model_validate({"loss": "distill", "teacher": teacher, "steps": 9, "temperature": 0.02})
    (phase,) = phases_of(section, (1, 2))
    assert (phase.grades, phase.steps, phase.temperature) == ([4, 4, 4], 9, 0.02)
    in_epochs = TrainingSection.model_validate({"loss": "distill", "teacher": teacher, "batch_size": 5})
    assert [phase.steps for phase in phases_of(in_epochs, (1, 2), tuples=1000)] == [200]
    own = {"loss": "distill", "teacher": {"kind": "judge"}, "steps": 9, "schedule": "all-at-once"}
    assert [phase.grades for phase in phases_of(TrainingSection.model_validate(own), (1, 2))] == [[1, 2]]


def test_grades_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r'"grade 2" wants negatives of grade 2, but no tuple has one .*: 1, 3\)'):
        schedule("only-2", 5, (1, 3))
    own = TrainingSection(phases=[PhaseSection(name="far", grades=[1, 2], steps=1)])
    with pytest.raises(ConfigError, match='training.phases: "far" wants negatives of grade 1'):
        phases_of(own, (2,))


def test_the_annealed_weights_cross() -> None:
    first, *_ = phases_of(TrainingSection(schedule="annealed", steps=30))
    assert [first.weights_at(t) for t in (0.0, 0.25, 1.0)] == [[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]]


@given(
    st.lists(st.one_of(st.tuples(st.just("steps"), st.integers(1, 9)), st.tuples(st.just("share"), st.floats(0.1, 9)))),
    st.integers(0, 60),
)
def test_steps_are_shared_out_to_the_last_one(parts: list[tuple[str, float]], more: int) -> None:
    if not parts:
        return
    phases = [PhaseSection.model_validate({"name": str(i), "grades": [1], k: v}) for i, (k, v) in enumerate(parts)]
    given_steps = sum(int(value) for key, value in parts if key == "steps")
    shares = [value for key, value in parts if key == "share"]
    total = given_steps + len(shares) + more
    found = phases_of(TrainingSection.model_construct(phases=phases, steps=total, schedule="coarse-to-fine"))
    assert all(phase.steps and phase.steps >= 1 for phase in found)
    if shares:
        assert sum(phase.steps or 0 for phase in found) == total
        free = total - given_steps
        for phase, (key, value) in zip(found, parts, strict=True):
            exact = free * value / sum(shares)
            if key == "share" and all(free * share / sum(shares) >= 1 for share in shares):
                assert phase.steps is not None
                assert abs(phase.steps - exact) < 1


def test_too_few_steps_for_the_phases() -> None:
    with pytest.raises(ConfigError, match="training.steps: found 3; 4 phases need at least one step each"):
        schedule("coarse-to-fine", 3)


def test_too_few_steps_for_a_look_at_each_phase() -> None:
    with pytest.raises(ConfigError, match="40; 4 self-paced phases with a check every 10 steps need more than 40"):
        schedule("self-paced", 40)
    phases = [PhaseSection(name="a", grades=[1], steps=100), PhaseSection(name="b", grades=[1], share=1)]
    with pytest.raises(ConfigError, match="found 80; phases with a fixed number take 100, and 1 more phases need"):
        phases_of(TrainingSection(phases=phases, steps=80))


@pytest.mark.parametrize(
    ("settings", "tuples", "steps"),
    [
        ({"batch_size": 64}, 400_000, 6250),
        ({"batch_size": 64}, 13_254, 208),  # 207.1 batches
        ({"batch_size": 64}, 40, 60),
        ({"batch_size": 64}, 0, 60),
        ({"batch_size": 10, "epochs": 1.1}, 1000, 110),  # 1.1 x 100 is a little more in binary
        ({"batch_size": 10, "epochs": 0.25}, 10_001, 251),
        ({"batch_size": 64, "epochs": 100.0}, 40, 100),
        ({"steps": 3}, 400_000, 3),
        ({"schedule": "self-paced", "pace_every": 30}, 40, 121),
    ],
)
def test_an_epoch_has_every_tuple_once(settings: dict[str, Any], tuples: int, steps: int) -> None:
    section = TrainingSection.model_validate(settings)
    phases = phases_of(section, tuples=tuples)
    assert section.total_steps(tuples) == sum(phase.steps or 0 for phase in phases) == steps


@given(st.integers(2, 300), st.integers(0, 10**6), st.floats(0.01, 50))
def test_steps_are_as_many_as_the_epochs_take_and_no_more(batch: int, tuples: int, epochs: float) -> None:
    section = TrainingSection(batch_size=batch, epochs=epochs)
    steps, wanted = section.total_steps(tuples), epochs * tuples
    assert steps >= 60 and steps * section.batch_of(tuples) > wanted - 0.01 * batch
    assert steps == 60 or (steps - 1) * section.batch_of(tuples) < wanted
    assert section.seen(tuples) <= tuples and (epochs < 1 or section.seen(tuples) == tuples)


def test_every_phase_has_steps_however_few_tuples_there_are() -> None:
    parts: list[dict[str, Any]] = [{"name": "a", "grades": [1], "steps": 80}]
    parts += [{"name": name, "grades": [1], "share": 1.0} for name in "bc"]
    assert [phase.steps for phase in phases_of(TrainingSection.model_validate({"phases": parts}))] == [80, 1, 1]


def test_a_drawing_has_a_line_for_each_grade() -> None:
    lines = drawn(phases_of(TrainingSection(schedule="random", steps=8)))
    assert lines == [f"grade {grade} |{'▂' * 8}|" for grade in (4, 3, 2, 1)]
    assert drawn(phases_of(TrainingSection(phases=[PhaseSection(name="a", grades=[], steps=2)]))) == []
