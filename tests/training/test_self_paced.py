import json
from pathlib import Path

import pytest

from multigrain.config import PhaseSection
from multigrain.errors import RunError
from multigrain.records import GradedTuple
from multigrain.training.curriculum import Curriculum, plan
from multigrain.training.self_paced import SelfPacedSchedule


def curriculum(steps: int = 30, count: int = 3) -> Curriculum:
    sections = [PhaseSection(name=str(i), grades=[], steps=steps // count) for i in range(count)]
    return plan([GradedTuple(str(i), f"q{i}", f"p{i}", ()) for i in range(4)], sections, 2)


def follow(schedule: SelfPacedSchedule, margins: dict[int, float], steps: int) -> list[int]:
    """The phase of each step, asked when sentence-transformers would: one step ahead."""
    phases = [schedule.phase_at(0)]
    for done in range(1, steps + 1):
        if done < steps:
            phases.append(schedule.phase_at(done))
        schedule.check(done, lambda phase, done=done: margins[done])  # type: ignore[misc]
    return phases


def test_a_phase_ends_when_its_margin_no_longer_grows(tmp_path: Path) -> None:
    margins = {5: 0.1, 10: 0.2, 15: 0.2, 20: -0.3, 25: -0.3, 30: 0.0}
    phases = follow(SelfPacedSchedule(curriculum(), 5, tmp_path / "pace.json"), margins, 30)
    # 0.2 after step 15 is not better: phase 1 from the step after the next. Its first check (20) has nothing to compare
    # with, and must make room for the last phase; the step that transformers has fetched already is still of phase 1.
    assert phases == [0] * 16 + [1] * 10 + [2] * 4
    checks = json.loads((tmp_path / "pace.json").read_text())
    assert checks[2] == {"step": 15, "phase": 1, "margin": 0.2}


def test_every_phase_has_its_look_even_if_the_first_never_stalls(tmp_path: Path) -> None:
    phases = follow(SelfPacedSchedule(curriculum(), 5, tmp_path / "pace.json"), {i: i / 10 for i in range(31)}, 30)
    assert [phases.count(phase) for phase in (0, 1, 2)] == [21, 5, 4]


def test_decisions_are_replayed_not_taken_again(tmp_path: Path) -> None:
    record = tmp_path / "pace.json"
    first = follow(
        SelfPacedSchedule(curriculum(), 5, record), {5: 0.2, 10: 0.1, 15: 0.5, 20: 0.4, 25: 0.3, 30: 0.2}, 30
    )
    kept = record.read_bytes()
    again = follow(SelfPacedSchedule(curriculum(), 5, record), {}, 30)  # a margin that is asked for is a KeyError
    assert first == again
    assert record.read_bytes() == kept


def test_without_a_margin_the_schedules_own_lengths_hold(tmp_path: Path) -> None:
    schedule = SelfPacedSchedule(curriculum(), 5, tmp_path / "pace.json")
    phases = [schedule.phase_at(0)]
    for done in range(1, 30):
        phases.append(schedule.phase_at(done))
        schedule.check(done, lambda phase: None)
    assert [phases.count(phase) for phase in (0, 1, 2)] == [11, 10, 9]


def test_a_host_that_fetches_too_far_ahead_is_found_out(tmp_path: Path) -> None:
    schedule = SelfPacedSchedule(curriculum(), 5, tmp_path / "pace.json")
    assert schedule.phase_at(5) == 0
    with pytest.raises(RunError, match="the batch of step 7 was fetched before its phase was decided"):
        schedule.phase_at(6)
