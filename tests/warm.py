"""Work in processes of their own, to be killed: forked from one that has imported torch, so that a start costs no ten
seconds and a kill hits work."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from multigrain.cli.main import main

_context = get_context("forkserver")
_context.set_forkserver_preload(["multigrain.model.load", "multigrain.training.train", "tests.freeze"])


def start(*arguments: str) -> BaseProcess:
    """`multigrain ARGUMENTS`, silent."""
    process = _context.Process(target=_main, args=arguments)
    process.start()
    return process


def _main(*arguments: str) -> None:
    with Path(os.devnull).open("w") as sys.stdout:
        sys.exit(main(list(arguments)))


@dataclass(frozen=True)
class Call:
    """A process that works, and the folder of what it prints."""

    process: BaseProcess
    printing: Path

    def printed(self) -> tuple[str, str]:
        """On stdout and on stderr."""
        return (self.printing / "out").read_text(), (self.printing / "err").read_text()

    def ended(self, code: int) -> tuple[str, str]:
        """What it printed until it ended, with this code."""
        self.process.join(300)
        assert self.process.exitcode == code, self.printed()[1]
        return self.printed()


def call(work: Callable[..., None], *arguments: Any, printing: Path) -> Call:
    """Start `work(*arguments)`; what it and its children print goes to a folder."""
    printing.mkdir(exist_ok=True)
    for name in ("out", "err"):
        (printing / name).write_text("")
    process = _context.Process(target=_call, args=(printing, work, *arguments))
    process.start()
    return Call(process, printing)


def _call(printing: Path, work: Callable[..., None], *arguments: Any) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(printing / name, os.O_WRONLY | os.O_APPEND), descriptor)
    work(*arguments)
