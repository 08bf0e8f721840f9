"""What `multigrain doctor` finds, and how it is shown."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from multigrain.errors import MultigrainError, first_line
from multigrain.terminal import counted

State = Literal["ok", "note", "wrong"]
COLUMNS = "{:<7}{:<13}"
"""The columns of the state and the name, before what was found."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: State
    """`wrong` is what keeps multigrain from working; `note` is what a user may want to know."""
    name: str
    found: str
    advice: str = ""
    """What to do."""


def pip(arguments: str) -> str:
    """Return a command that installs into the environment that multigrain runs in, which may not be the active one."""
    program = f"{sys.executable} -m pip" if importlib.util.find_spec("pip") else "pip"
    return f"{program} install {arguments}"


def explained(name: str, error: Exception) -> Finding:
    """Return the finding that a check which failed amounts to."""
    if isinstance(error, MultigrainError):
        found, _, advice = str(error).partition("Run: pip install ")
        return Finding("wrong", name, found.rstrip(" .") if advice else found, f"Run: {pip(advice)}" if advice else "")
    return Finding("wrong", name, f"{type(error).__name__}: {first_line(error)}")


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; an error of any kind is one more: the other checks go on."""
    try:
        yield from check()
    except Exception as error:  # whatever is broken, the user wants to hear of the rest too
        yield explained(name, error)


def lines_of(finding: Finding) -> str:
    """Return a finding as it is shown: what was found, and the advice below it."""
    shown = COLUMNS.format(finding.state, finding.name) + finding.found
    return f"{shown}\n{COLUMNS.format('', '')}{finding.advice}" if finding.advice else shown


def verdict(wrong: int, next_step: str) -> str:
    """Return the last line of the report.

    Args:
        wrong: how many findings are faults.
        next_step: the command that there is nothing against, where there are none.
    """
    if wrong:
        return f"{counted(wrong, 'things')} to put right: see the lines that begin with wrong."
    return f"Nothing is wrong. Next: {next_step}"
