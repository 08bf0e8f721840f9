"""Print a shell script that completes commands, options and paths."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("RUN", "MODEL", "ABLATION", "FOLDER", "FILE", "PATH")
"""Words in the placeholder of an argument that mark it as a path."""


class PrintCompletion(argparse.Action):
    """Print the completion script of a shell, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the script for the shell `values`."""
        import shtab

        for action in _actions(parser):
            if _takes_a_path(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, str(values)))
        parser.exit()


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
