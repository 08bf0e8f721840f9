"""Profile the CPU time of a process by sampling, by the modules at work."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EVERY = 0.002
"""CPU seconds between two samples."""
START = "start of the process"
PARTS = {
    "report": ("grading/report.py", "grading/surface_leak.py", "grading/surface_features.py"),
    "BM25": ("retrieval/bm25.py", "retrieval/bm25_index.py", "grading/bm25_judge.py", "bm25s/"),
    "mining by vectors": ("retrieval/",),
    "vector file": ("model/",),
    "rules and selection": ("grading/",),
    "reading": ("data/", "llm/"),
    "writing and the rest": ("pipeline/stages/",),
    "checks of the run": ("pipeline/", "config/"),
}
"""Part -> path prefixes inside multigrain or site-packages; the innermost frame that matches one counts."""


@contextmanager
def sampled() -> Iterator[dict[str, float]]:
    """Count CPU seconds by part while the block runs.

    A signal comes after each `EVERY` seconds of CPU time; the time since the last one goes to the part at work.
    Python receives signals between its own instructions, so a long product in C goes to its caller.
    """
    seconds = defaultdict[str, float](float, {START: time.process_time()})
    last = time.process_time()

    def note(_signal: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        seconds[_part(frame)] += now - last
        last = now

    signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        yield seconds
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _part(frame: FrameType | None) -> str:
    """Return the part of a stack; imports belong to the start, whoever triggers them."""
    part = None
    while frame:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib"):
            return START
        part = part or _part_of_file(file)
        frame = frame.f_back
    return part or "writing and the rest"


def _part_of_file(file: str) -> str | None:
    inside = file.rpartition(f"multigrain{os.sep}")[2] if f"{os.sep}multigrain{os.sep}" in file else file
    below = file.rpartition(f"site-packages{os.sep}")[2]
    for part, beginnings in PARTS.items():
        if inside.startswith(beginnings) or below.startswith(beginnings):
            return part
    return None
