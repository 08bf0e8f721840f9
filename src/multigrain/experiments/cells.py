"""One training of a grid: an arm with one seed, which is a run of its own."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.config import OUTCOME_NEUTRAL, Config
from multigrain.errors import RunError
from multigrain.experiments.results import read_run
from multigrain.pipeline.freshness import inputs_digest


@dataclass(frozen=True)
class Cell:
    """One training of a grid.

    Attributes:
        arm: the arm it belongs to.
        label: the name of its folder within the arm's, such as `seed-1` or `tune-2e-05`.
        config: the settings of its run.
    """

    arm: str
    label: str
    config: Config

    @property
    def folder(self) -> Path:
        """The folder of its run."""
        return self.config.folder

    @property
    def note(self) -> Path:
        """The file that records that the cell is measured."""
        return self.folder / "cell.json"

    @property
    def fingerprint(self) -> str:
        """Digest of everything that determines the outcome, except multigrain's code."""
        settings = self.config.model_dump(exclude={**OUTCOME_NEUTRAL, "name": True, "output": True, "baseline": True})
        return Config.digest([settings, inputs_digest(self.config)])

    @property
    def is_done(self) -> bool:
        """Whether the cell is measured, with these settings and data."""
        try:
            read_run(self.folder)
        except RunError:  # missing, or damaged
            return False
        return self.noted == self.fingerprint

    @property
    def noted(self) -> str | None:
        """The fingerprint with which the cell was measured; None if it was not."""
        try:
            return str(json.loads(self.note.read_text(encoding="utf-8"))["fingerprint"])
        except (OSError, ValueError, LookupError, TypeError):  # missing, or damaged
            return None


def seed_label(seed: int) -> str:
    """Return the folder name of a training with this seed."""
    return f"seed-{seed}"


def tuning_label(number: int, value: Any) -> str:
    """Return the folder name of a tuning cell: its value if that can be a name, else the value's number.

    >>> tuning_label(1, 2e-05), tuning_label(2, ["a", "b"])
    ('tune-2e-05', 'tune-value-2')
    """
    return f"tune-{value}" if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", str(value)) else f"tune-value-{number}"
