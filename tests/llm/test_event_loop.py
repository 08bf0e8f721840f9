"""Whoever calls multigrain from a notebook is inside an event loop."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multigrain.config import load_config
from multigrain.errors import RunError
from multigrain.llm.event_loop import run_async
from multigrain.pipeline.verbs import synthesize


async def _fails() -> None:
    raise RunError("no answer")


def test_an_error_comes_out_of_either_loop() -> None:
    async def inside() -> None:
        run_async(_fails)

    for call in (lambda: run_async(_fails), lambda: asyncio.run(inside())):
        with pytest.raises(RunError, match="no answer"):
            call()


def test_ctrl_c_cancels_what_runs_beside_another_loop() -> None:
    cancelled = threading.Event()

    async def waits() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def inside() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_async(waits)

    started = time.monotonic()
    loop = asyncio.new_event_loop()  # asyncio.run takes Ctrl-C for itself; the loop of a notebook does not
    loop.run_until_complete(inside())
    loop.close()
    assert cancelled.is_set()
    assert time.monotonic() - started < 30


def test_a_language_model_is_asked_inside_a_loop(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    write_jsonl("pairs.jsonl", [{"query": f"what is item-{i} for", "positive": f"item-{i} is good"} for i in range(8)])
    (tmp_path / "run.toml").write_text(
        f'name = "notebook"\noutput = "{tmp_path}/runs"\n[data]\npairs = "pairs.jsonl"\nheld_out = 0.25\n'
        '[llm]\nprovider = "scripted"\n[mining]\nenabled = false\n'
    )
    config = load_config(tmp_path / "run.toml")

    async def cell() -> None:
        synthesize(config)

    asyncio.run(cell())
    assert (config.folder / "synthesis" / "candidates.jsonl").stat().st_size > 0
