"""Progress on stderr: a bar on a terminal, one line every ten seconds elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY = 10.0
"""Seconds between lines where stderr is no terminal."""


class Meter(Protocol):
    """Counts the steps of one long piece of work."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` (say, the phase of a training) is shown beside the bar."""


_quiet = False


def set_quiet(quiet: bool) -> None:
    """Turn progress off (or on again) for the whole process."""
    global _quiet  # noqa: PLW0603 (the process has one stderr)
    _quiet = quiet


def say(message: str) -> None:
    """Tell the user something that is not a result."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def meter(description: str, total: int) -> Iterator[Meter]:
    """A meter for `total` steps, shown while the block runs."""
    if _quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        with _bar() as progress:
            yield _Bar(progress, progress.add_task(description, total=total, note=""))
    else:
        lines = _Lines(description, total)
        yield lines
        lines.close()


class _Silent:
    def advance(self, steps: int = 1, note: str | None = None) -> None:
        pass


class _Lines:
    def __init__(self, description: str, total: int) -> None:
        self.description, self.total = description, total
        self.done, self.note = 0, ""
        self.started = self.printed = time.monotonic()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.done += steps
        self.note = note if note is not None else self.note
        if time.monotonic() - self.printed >= LINE_EVERY:
            self._print()

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        self.printed = time.monotonic()
        seconds = self.printed - self.started
        note = f" ({self.note})" if self.note else ""
        print(f"{self.description} {self.done}/{self.total} {seconds:.0f} s{note}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self.progress, self.task = progress, task

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.progress.advance(self.task, steps)
        if note is not None:
            self.progress.update(self.task, note=note)


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
