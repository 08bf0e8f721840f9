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
_ours = ("cli.main", "model.load", "pipeline.verbs", "retrieval.bm25", "training.train")
_theirs = ("aiohttp", "datasketch", "sklearn.ensemble")  # which the stages import when they need them
_context.set_forkserver_preload([*(f"multigrain.{name}" for name in _ours), *_theirs, "tests.freeze"])


def start(*arguments: str) -> BaseProcess:
    """`multigrain ARGUMENTS`, silent."""
    return fork(_main, *arguments)


def fork(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """`work(*arguments)`."""
    process = _context.Process(target=work, args=arguments)
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
    """`work(*arguments)`; what it and its children print goes to a folder."""
    printing.mkdir(exist_ok=True)
    for name in ("out", "err"):
        (printing / name).write_text("")
    return Call(fork(_call, printing, work, *arguments), printing)


def _call(printing: Path, work: Callable[..., None], *arguments: Any) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(printing / name, os.O_WRONLY | os.O_APPEND), descriptor)
    work(*arguments)
