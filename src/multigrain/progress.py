"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere, JSON lines for machines, or nothing."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Mode = Literal["auto", "json", "none"]

LINE_EVERY, JSON_EVERY = 10.0, 1.0
"""Seconds between lines where stderr is no terminal."""


class Meter(Protocol):
    """Counts the steps of one long piece of work."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` (say, the phase of a training) is shown beside the count."""

    def reach(self, done: int, fields: dict[str, object]) -> None:
        """So many steps are done in all; `fields` say what else there is to know."""


_mode: Mode = "auto"
_is_shown = False
"""Whether a meter is."""


def set_mode(mode: Mode) -> None:
    """Choose how progress is shown, for the whole process."""
    global _mode  # noqa: PLW0603 (the process has one stderr)
    _mode = mode


def say(message: str) -> None:
    """Tell the user something that is not a result."""
    if _mode == "json":
        _print(json.dumps({"message": message}, ensure_ascii=False))
    elif _mode == "auto":
        _print(message)


def complain(message: str) -> None:
    """Tell the user what went wrong, however quiet we are."""
    _print(json.dumps({"error": message}, ensure_ascii=False) if _mode == "json" else f"multigrain: {message}")


@contextmanager
def meter(description: str, total: int) -> Iterator[Meter]:
    """A meter for `total` steps, shown while the block runs; one inside another is silent."""
    global _is_shown  # noqa: PLW0603 (the process has one stderr)
    if _mode == "none" or _is_shown:
        yield _Silent()
        return
    _is_shown = True
    try:
        with _meter(description, total) as shown:
            yield shown
    finally:
        _is_shown = False


@contextmanager
def _meter(description: str, total: int) -> Iterator[Meter]:
    if _mode == "auto" and sys.stderr.isatty():
        with _bar() as progress:
            yield _Bar(progress, progress.add_task(description, total=total, note=""))
    else:
        lines = _Json(description, total) if _mode == "json" else _Lines(description, total)
        yield lines
        lines.close()


def interval(low: float | None, high: float | None) -> str:
    """An interval as a person reads it; nothing where there is none, as for a task that has a score alone."""
    return "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def listed(fields: Mapping[str, object]) -> str:
    """Fields as a person reads them: "3 parked, 64 under way, most often: HTTP 429"."""
    return ", ".join(
        f"{name.replace('_', ' ')}: {value}" if isinstance(value, str) else f"{value} {name.replace('_', ' ')}"
        for name, value in fields.items()
    )


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Silent:
    def advance(self, steps: int = 1, note: str | None = None) -> None:
        pass

    def reach(self, done: int, fields: dict[str, object]) -> None:
        pass


class _Lines:
    every = LINE_EVERY

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total = description, total
        self.done, self.fields = 0, dict[str, object]()
        self.begun: int | None = None
        self.started = self.printed = time.monotonic()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        if note is not None:
            self.fields = {"now": note}
        self.begun = self.begun or 0
        self.reach(self.done + steps, self.fields)

    def reach(self, done: int, fields: dict[str, object]) -> None:
        if self.begun is None:  # what was done before the meter ran says nothing about the pace
            self.begun = done
        self.done, self.fields = done, fields
        if time.monotonic() - self.printed >= self.every:
            self._show()

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        self.printed = time.monotonic()
        seconds = self.printed - self.started
        rate = (self.done - (self.begun or 0)) / seconds if seconds else 0.0
        left = (self.total - self.done) / rate if rate else None
        self._print(seconds, rate, left)

    def _print(self, seconds: float, rate: float, left: float | None) -> None:
        pace = (f", {rate:.0f}/s" if rate >= 10 else f", {rate:.2g}/s") + (f", {left:.0f} s left" if left else "")
        fields = f" ({listed(self.fields)})" if self.fields else ""
        _print(f"{self.description} {self.done}/{self.total} {seconds:.0f} s{pace}{fields}")


class _Json(_Lines):
    every = JSON_EVERY

    def _print(self, seconds: float, rate: float, left: float | None) -> None:
        counts = {"work": self.description, "done": self.done, "total": self.total}
        pace = {"seconds": round(seconds, 1), "rate": round(rate, 2), "left": None if left is None else round(left)}
        _print(json.dumps({**counts, **pace, **self.fields}, ensure_ascii=False))


class _Bar:
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self.progress, self.task = progress, task

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.progress.advance(self.task, steps)
        if note is not None:
            self.progress.update(self.task, note=note)

    def reach(self, done: int, fields: dict[str, object]) -> None:
        self.progress.update(self.task, completed=done, note=listed(fields))


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
