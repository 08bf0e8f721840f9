"""Self-paced training: decide from margins on held-out tuples when a phase ends.

Every few steps, a check measures the model's margin on held-out tuples,

    margin = mean over tuples of cos(query, positive) - cos(query, negative of the phase's grades),

and the phase ends when the margin has not improved since the previous check. Each margin and decision is written to a
file before it takes effect, so a resumed training repeats exactly the same phases.
"""

import json
from collections.abc import Callable
from pathlib import Path

from multigrain.errors import RunError
from multigrain.files import write_json
from multigrain.training.curriculum import Curriculum

LAG = 1
"""transformers fetches a batch ahead, so a decision takes effect one step later than it could."""


class SelfPacedSchedule:
    """The phases of a self-paced training: decides when a phase ends, and records it for the sampler (`phase_at`).

    Args:
        curriculum: the plan. It gives the order of the phases, and their lengths where no margin can be measured.
        every: number of steps between two checks.
        record: the file of the decisions.
        writes: whether this process writes the file.
    """

    def __init__(self, curriculum: Curriculum, every: int, record: Path, *, writes: bool = True) -> None:
        self._phases, self._bounds = curriculum.phases, curriculum.bounds
        self._steps, self._every = curriculum.steps, every
        self._record, self._writes = record, writes
        checks = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
        self._checks: dict[int, tuple[int, float | None]] = {
            check["step"]: (check["phase"], check["margin"]) for check in checks
        }
        """By number of steps done: the next phase, and the margin on the current one."""

    def phase_at(self, step: int) -> int:
        """Return the index of the phase of a step (both from 0).

        Raises:
            RunError: the phase is not decided yet, because transformers fetches batches further ahead than expected.
        """
        known = (step - LAG) // self._every * self._every
        if known < self._every:
            return 0
        if known not in self._checks:
            raise RunError(f"training: the batch of step {step + 1} was fetched before its phase was decided")
        return self._checks[known][0]

    def check(self, steps: int, margin_on: Callable[[int], float | None]) -> int | None:
        """Decide whether the next phase begins now; return it if so, else None.

        Args:
            steps: number of steps done.
            margin_on: returns the margin on a phase, or None if no held-out tuple has its grades.
        """
        if steps % self._every or steps in self._checks:
            return None
        phase = self.phase_at(steps - 1)
        margin = margin_on(phase)
        is_over = phase + 1 < len(self._phases) and (
            self._has_stalled(steps, phase, margin) or self._must_go_on(steps, phase)
        )
        self._checks[steps] = phase + is_over, margin
        if self._writes:
            checks = [
                {"step": step, "phase": to_come, "margin": seen} for step, (to_come, seen) in self._checks.items()
            ]
            write_json(self._record, checks)
        return phase + 1 if is_over else None

    def _has_stalled(self, steps: int, phase: int, margin: float | None) -> bool:
        if margin is None:  # then the schedule's length applies
            return steps >= self._bounds[phase]
        before = self._checks.get(steps - self._every)
        if before is None or before[1] is None or self.phase_at(steps - self._every - 1) != phase:
            return False
        return margin <= before[1]

    def _must_go_on(self, steps: int, phase: int) -> bool:
        """Return whether the remaining phases need all remaining steps, one check each."""
        return self._steps - steps <= (len(self._phases) - 1 - phase) * self._every
