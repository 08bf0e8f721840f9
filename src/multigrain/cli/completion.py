"""Print a shell script that completes commands, options and paths."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multigrain.cli.print_and_exit import PrintAndExit

SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("RUN", "MODEL", "ABLATION", "FOLDER", "FILE", "PATH")
"""Words in the placeholder of an argument that mark it as a path."""


class PrintCompletion(PrintAndExit):
    """Print the completion script of a shell, and exit."""

    def text(self, parser: argparse.ArgumentParser, value: str | Sequence[Any] | None) -> str:
        """Return the script for the shell `value`."""
        import shtab

        for action in _actions(parser):
            if _takes_a_path(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        script: str = shtab.complete(parser, str(value))
        return script


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the actions of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)


def _takes_a_path(action: argparse.Action) -> bool:
    placeholder = action.metavar if isinstance(action.metavar, str) else ""
    return action.type is Path or any(word in placeholder for word in PATHS)
