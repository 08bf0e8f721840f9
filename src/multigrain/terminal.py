"""Text as a terminal shows it: lines that break between words, tables in columns."""

import os
import re
import stat
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

PLAIN = 100
"""Characters of a line where no terminal says how many it has."""
LABEL = re.compile(r" *(\S+ {2,})?")
"""What the lines that follow a line are indented by: its own indent, and a label before a wide gap."""


def width_of(stream: TextIO) -> int | None:
    """The columns of the terminal behind the stream; None where there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or PLAIN if stream.isatty() else None
    except (OSError, ValueError):  # a terminal in name alone, or one that is closed
        return PLAIN


def is_live(stream: TextIO) -> bool:
    """Whether the stream is a terminal on which a line can be drawn over; a log of CI keeps them all."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and not os.environ.get("CI")


def leave_hung_up(descriptors: Sequence[int] = (1, 2)) -> None:
    """Write to nowhere what went to a terminal that is closed, where each line would be an error."""
    for descriptor in descriptors:
        with suppress(OSError):  # it is no longer open
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def fitted(text: str, width: int | None) -> str:
    """The text with lines that are too long broken between words; as it is where there is no width."""
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
    """The text in one line of at most so many characters, cut after a word; within one only where it has no spaces.

    >>> shortened("the cat sleeps in the house", 16)
    'the cat sleeps …'
    """
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    words = line[: width - 1].rpartition(" ")[0]  # the last word, or what is left of it, goes
    return f"{words} …" if words else f"{line[: width - 1]}…"


def columns(rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """The rows as lines with columns below each other: so many of texts, at the left; the others at the right.

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
