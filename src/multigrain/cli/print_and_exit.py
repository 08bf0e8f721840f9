"""Options that print a text in place of running a command."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class PrintAndExit(argparse.Action, ABC):
    """Print a text, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the text for the value of the option."""
        print(self.text(parser, values))
        parser.exit()

    @abstractmethod
    def text(self, parser: argparse.ArgumentParser, value: str | Sequence[Any] | None) -> str:
        """Return the text.

        Args:
            parser: the parser of the whole command line.
            value: the value of the option.
        """
