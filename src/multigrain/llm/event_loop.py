"""Run coroutines from synchronous functions, even if an event loop is already running, as in a notebook."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine until it returns.

    If this thread already runs an event loop, the coroutine gets its own thread. Ctrl-C cancels it there too.

    Args:
        make: creates the coroutine, which itself opens anything bound to one thread, such as a database.

    Example:
        >>> async def answer() -> int:
        ...     return 42
        >>> run_async(answer)
        42
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def in_thread() -> T:
        task = asyncio.current_task()
        assert task is not None  # asyncio.run made it
        started.set_result((asyncio.get_running_loop(), task))
        return await make()

    with ThreadPoolExecutor(max_workers=1) as pool:
        result = pool.submit(copy_context().run, asyncio.run, in_thread())
        try:
            return result.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
            raise
