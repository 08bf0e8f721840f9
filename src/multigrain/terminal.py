"""Progress, messages and tables on the terminal."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
import os
import re
import stat
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

Mode = Literal["auto", "json", "none"]

LINE_EVERY, JSON_EVERY = 10.0, 1.0
"""Seconds between progress lines where stderr is not a terminal: as text, and as JSON."""


class Meter(Protocol):
    """A counter of the steps of one long task."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Add `steps` to the count; `note` (say, the training phase) is shown beside it."""

    def reach(self, done: int, fields: dict[str, object]) -> None:
        """Set the count to `done` steps; `fields` are shown beside it."""


_mode: Mode = "auto"
_is_shown = False
"""Whether a meter is shown."""
_closed: dict[str, float] = {}
"""Time at which the last meter of each description closed, so that work in many small pieces is reported once."""


def set_mode(mode: Mode) -> None:
    """Choose how progress is shown, for the whole process."""
    global _mode  # noqa: PLW0603 (the process has one stderr)
    _mode = mode
    _closed.clear()


def say(message: str) -> None:
    """Print a message that is not a result."""
    if _mode == "json":
        _print(json.dumps({"message": message}, ensure_ascii=False))
    elif _mode == "auto":
        _print(fitted(message, width_of(sys.stderr)))


def complain(message: str) -> None:
    """Print an error message, even where progress is switched off."""
    if _mode == "json":
        _print(json.dumps({"error": message}, ensure_ascii=False))
    else:
        _print(fitted(f"multigrain: {message}", width_of(sys.stderr)))


@contextmanager
def meter(description: str, total: int) -> Iterator[Meter]:
    """Yield a meter for `total` steps, shown while the block runs; a nested meter is silent."""
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
    if _mode == "auto" and is_live(sys.stderr):
        with _bar(is_passing=description in _closed) as progress:
            yield _Bar(progress, progress.add_task(description, total=total, note=""))
        _closed[description] = time.monotonic()
    else:
        lines = _Json(description, total) if _mode == "json" else _Lines(description, total)
        yield lines
        lines.close()


def interval(low: float | None, high: float | None) -> str:
    """Format an interval for display; return "" if there is none, as for a task with only an overall score."""
    return "" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def counted(number: object, plural: str) -> str:
    """Return a number with its noun, in the singular for 1.

    >>> counted(1, "phases"), counted(2, "queries"), counted(1, "held-out queries"), counted(1, "parked")
    ('1 phase', '2 queries', '1 held-out query', '1 parked')
    """
    return f"{number} {' '.join(map(_singular, plural.split())) if number == 1 else plural}"


def _singular(word: str) -> str:
    if word.endswith(("ss", "us", "is")):
        return word
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("s", "")):
        if word.endswith(ending):
            return word.removesuffix(ending) + instead
    return word


def named(names: Iterable[str]) -> str:
    """Return the names on one line, each in quotes, because names may contain commas.

    >>> print(named(["base", "stock, mined"]))
    "base", "stock, mined"
    """
    return ", ".join(f'"{name}"' for name in names)


def listed(fields: Mapping[str, object]) -> str:
    """Format fields for display: "3 parked, 64 under way, most often: HTTP 429"."""
    words = {name.replace("_", " "): value for name, value in fields.items()}
    return ", ".join(
        f"{name}: {value}" if isinstance(value, str) else counted(value, name) for name, value in words.items()
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
        if self.begun is None:  # steps done before the meter ran say nothing about its speed
            self.begun = done
        self.done, self.fields = done, fields
        if time.monotonic() - self.printed >= self.every:
            self._show()

    def close(self) -> None:
        before = _closed.get(self.description, -self.every)
        if self.printed > self.started or time.monotonic() - before >= self.every:
            self._show()
            _closed[self.description] = self.printed

    def _show(self) -> None:
        self.printed = time.monotonic()
        seconds = self.printed - self.started
        rate = (self.done - (self.begun or 0)) / seconds if seconds else 0.0
        left = (self.total - self.done) / rate if rate else None
        self._print(seconds, rate, left)

    def _print(self, seconds: float, rate: float, left: float | None) -> None:
        speed = (f", {rate:.0f}/s" if rate >= 10 else f", {rate:.2g}/s") + (f", {left:.0f} s left" if left else "")
        fields = f" ({listed(self.fields)})" if self.fields else ""
        _print(f"{self.description} {self.done}/{self.total} {seconds:.0f} s{speed}{fields}")


class _Json(_Lines):
    every = JSON_EVERY

    def close(self) -> None:  # always: the reader is a program, and counts the work
        self._show()

    def _print(self, seconds: float, rate: float, left: float | None) -> None:
        counts = {"work": self.description, "done": self.done, "total": self.total}
        speed = {"seconds": round(seconds, 1), "rate": round(rate, 2), "left": None if left is None else round(left)}
        _print(json.dumps({**counts, **speed, **self.fields}, ensure_ascii=False))


class _Bar:
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self.progress, self.task = progress, task

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.progress.advance(self.task, steps)
        if note is not None:
            self.progress.update(self.task, note=note)

    def reach(self, done: int, fields: dict[str, object]) -> None:
        self.progress.update(self.task, completed=done, note=listed(fields))


def _bar(is_passing: bool) -> "Progress":
    """Return a progress bar with its note below it, on as many lines as the note needs.

    Args:
        is_passing: whether to remove the bar when it is done.
    """
    from rich.console import Console, RenderableType
    from rich.padding import Padding
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Bar(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if note := task.fields["note"]:
                    yield Padding(Text(note), (0, 0, 0, 2))

    return Bar(
        TextColumn("{task.description}", table_column=Column()),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=is_passing,
    )


PLAIN = 100
"""Line width, in characters, where no terminal reports one."""
LABEL = re.compile(r" *(\S+ {2,})?")
"""The part of a line that its continuation lines are indented by: its own indent, and a label before a wide gap."""


def width_of(stream: TextIO) -> int | None:
    """Return the width, in columns, of the terminal behind the stream; None if there is no terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or PLAIN if stream.isatty() else None
    except (OSError, ValueError):  # not a real terminal, or a closed one
        return PLAIN


def is_live(stream: TextIO) -> bool:
    """Return whether the stream is a terminal whose lines can be redrawn; a CI log keeps every line."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and not os.environ.get("CI")


def leave_hung_up(descriptors: Sequence[int] = (1, 2)) -> None:
    """Redirect output for a closed terminal to the null device, because each write would fail."""
    for descriptor in descriptors:
        with suppress(OSError):  # already closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def fitted(text: str, width: int | None) -> str:
    """Return the text with long lines broken between words; unchanged if there is no width."""
    if width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width))


def _broken(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    label = LABEL.match(line)
    indent = len(label[0]) if label and len(label[0]) <= width // 2 else 2
    return textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ) or [line]


def shortened(text: str, width: int) -> str:
    """Return the text as one line of at most `width` characters, cut after a word, or within one if it has no spaces.

    >>> shortened("the cat sleeps in the house", 16)
    'the cat sleeps …'
    """
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    words = line[: width - 1].rpartition(" ")[0]  # drop the last word, which may be cut
    return f"{words} …" if words else f"{line[: width - 1]}…"


def columns(rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Return the rows as aligned lines: the first `texts` columns to the left, the others to the right.

    >>> columns([["arm", "value"], ["a", "0.5"]])
    ['arm  value', 'a      0.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


class DifferenceRow(NamedTuple):
    """One metric of one task, as text: a row of the table under `DIFFERENCE_HEAD`."""

    task: str
    metric: str
    base: str
    trained: str
    difference: str
    interval: str


DIFFERENCE_HEAD = DifferenceRow("task", "metric", "base", "trained", "difference", "95 % interval")
"""Column names."""


def difference_rows(summary: dict[str, Any]) -> Iterator[DifferenceRow]:
    """Yield one row for each metric of each task, except BM25's metrics, which no model changes.

    Args:
        summary: the content of `summary.json`: `base` and `trained` map task -> metric -> value, and `difference` maps
            task -> metric -> (value, lower bound, upper bound); the bounds of a task with only a score are None.

    >>> score = {"sts:x": {"Spearman": 0.5}}
    >>> difference = {"sts:x": {"Spearman": (0.25, 0.125, 0.375)}}
    >>> row = next(difference_rows({"base": score, "trained": {"sts:x": {"Spearman": 0.75}}, "difference": difference}))
    >>> row.base, row.trained, row.difference
    ('0.500', '0.750', '+0.250')
    """
    for task, metrics in summary["difference"].items():
        for metric, (value, low, high) in metrics.items():
            if metric.endswith(" bm25"):
                continue
            yield DifferenceRow(
                task=task,
                metric=metric,
                base=f"{summary['base'][task][metric]:.3f}",
                trained=f"{summary['trained'][task][metric]:.3f}",
                difference=f"{value:+.3f}",
                interval=interval(low, high),
            )


def rows_of_sources(summary: dict[str, Any]) -> list[DifferenceRow]:
    """Return a row for the first metric of each source, if there are several."""
    rows: dict[str, DifferenceRow] = {}
    for row in difference_rows(summary["by_source"]) if "by_source" in summary else ():
        rows.setdefault(row.task, row)
    return list(rows.values())


VERDICT_HEAD = ("verdict", "against", "task", "metric", "trained - it", "95 % interval")
"""Column names of `verdict_rows`; the first four columns are text."""


def verdict_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield one row for each verdict in `summary.json` (see `multigrain.pipeline.verdict`).

    >>> verdict = {"outcome": "WIN", "against": "base", "task": "sts:x", "metric": "Spearman", "trained_on": False}
    >>> next(verdict_rows({"verdict": [{**verdict, "difference": (0.25, 0.125, 0.375)}]}))[2:5]
    ('sts:x (not trained on)', 'Spearman', '+0.250')
    """
    for verdict in summary["verdict"]:
        value, low, high = verdict["difference"]
        task = verdict["task"] if verdict["trained_on"] else f"{verdict['task']} (not trained on)"
        texts = (verdict["outcome"], verdict["against"], task, verdict["metric"])
        yield (*texts, f"{value:+.3f}", interval(low, high))
