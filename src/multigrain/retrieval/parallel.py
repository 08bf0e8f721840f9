"""Process parts of arrays in several threads: numpy releases the GIL while it computes."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

Spread = Callable[[Callable[[int], None], Iterable[int]], None]
"""Calls a function with each number; the calls must not share data."""


@contextmanager
def spread() -> Iterator[Spread]:
    """Provide a function that calls another one with each number, in as many threads as numpy would use.

    Meanwhile each product of numpy takes one thread: small products gain little from more.
    """
    threads = _threads()
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:

        def call(function: Callable[[int], None], numbers: Iterable[int]) -> None:
            for _ in map(function, numbers) if threads == 1 else pool.map(function, numbers):
                pass

        yield call


def _threads() -> int:
    """Return the number of threads to use; `OMP_NUM_THREADS` limits it, as in numpy and torch."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, int(limit))) if limit.isdecimal() else available
