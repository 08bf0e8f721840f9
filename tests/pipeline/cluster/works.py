"""Works for the processes of a test cluster: some of them kill their process, or fail."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multigrain.errors import ConfigError


def doubled(number: int) -> int:
    return 2 * number


def attempt(notes: Path, shard: object) -> int:
    """Note one more attempt at a shard, and return how many there were before."""
    path = notes / f"{abs(hash(repr(shard))) if not isinstance(shard, int) else shard}"
    before = path.stat().st_size if path.exists() else 0
    with path.open("ab") as file:
        file.write(b"x")
    return before


class Mishaps:
    """Doubles numbers, but does something else to some of them at the first attempts.

    Args:
        notes: folder shared by all processes.
        mishaps: what to do, and at how many attempts, by number.
    """

    def __init__(self, notes: Path, mishaps: dict[int, tuple[str, int]]) -> None:
        self._notes, self._mishaps = notes, mishaps

    def __call__(self, number: int) -> int:
        kind, times = self._mishaps.get(number, ("", 0))
        if attempt(self._notes, number) < times:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "fail":
                raise OSError(28, "No space left on device")
            if kind == "refuse":
                raise ConfigError("judge_model", ["is no model"])
            time.sleep(60)
        return doubled(number)


class KilledOnce:
    """Another work, whose process is killed at its first shard after the mark is set."""

    def __init__(self, work: Callable[[Any], Any], mark: Path) -> None:
        self._work, self._mark = work, mark

    def __call__(self, shard: Any) -> Any:
        try:
            self._mark.rename(self._mark.with_suffix(".used"))
        except FileNotFoundError:
            return self._work(shard)
        os.kill(os.getpid(), signal.SIGKILL)
        return None
