"""The findings of `multigrain doctor`, and how they are shown."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from multigrain.errors import MultigrainError, first_line
from multigrain.terminal import counted

State = Literal["ok", "note", "wrong"]
COLUMNS = "{:<7}{:<13}"
"""Columns of the state and the name, to the left of the finding."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    state: State
    """`wrong` if it keeps multigrain from working, `note` if it is merely good to know."""
    name: str
    found: str
    advice: str = ""
    """What the user should do."""


def pip(arguments: str) -> str:
    """Return a pip command for the environment that multigrain runs in, which may not be the active one."""
    program = f"{sys.executable} -m pip" if importlib.util.find_spec("pip") else "pip"
    return f"{program} install {arguments}"


def explained(name: str, error: Exception) -> Finding:
    """Return the finding of a check that raised an error."""
    if isinstance(error, MultigrainError):
        found, _, advice = str(error).partition("Run: pip install ")
        return Finding("wrong", name, found.rstrip(" .") if advice else found, f"Run: {pip(advice)}" if advice else "")
    return Finding("wrong", name, f"{type(error).__name__}: {first_line(error)}")


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; turn any error into a finding, so that the other checks go on."""
    try:
        yield from check()
    except Exception as error:  # whatever is broken, the other findings still help
        yield explained(name, error)


def lines_of(finding: Finding) -> str:
    """Return a finding as text, with the advice below it."""
    shown = COLUMNS.format(finding.state, finding.name) + finding.found
    return f"{shown}\n{COLUMNS.format('', '')}{finding.advice}" if finding.advice else shown


def verdict(wrong: int, next_step: str) -> str:
    """Return the last line of the report.

    Args:
        wrong: number of findings that are faults.
        next_step: command to suggest if there are none.
    """
    if wrong:
        return f"{counted(wrong, 'things')} to correct: see the lines that begin with wrong."
    return f"Nothing is wrong. Next: {next_step}"
