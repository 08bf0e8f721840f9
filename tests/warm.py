"""Commands in processes of their own, to be killed: forked from one that has imported torch, so that a start costs
no ten seconds and a kill hits work."""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from multigrain.cli.main import main

_context = get_context("forkserver")
_ours = ("cli.main", "model.load", "pipeline.verbs", "retrieval.bm25", "training.train")
_theirs = ("aiohttp", "datasketch", "sklearn.ensemble")  # which the stages import when they need them
_context.set_forkserver_preload([*(f"multigrain.{name}" for name in _ours), *_theirs])


def start(*arguments: str) -> BaseProcess:
    """`multigrain ARGUMENTS`, silent."""
    return call(_main, *arguments)


def call(work: Callable[..., None], *arguments: str) -> BaseProcess:
    """A function of a module, in a process of its own."""
    process = _context.Process(target=work, args=arguments)
    process.start()
    return process


def _main(*arguments: str) -> None:
    with Path(os.devnull).open("w") as sys.stdout:
        sys.exit(main(list(arguments)))
