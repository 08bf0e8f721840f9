"""Circuit breaker: try a server that is considered dead with one input at a time, until it answers again."""

import asyncio
from collections.abc import Sequence

from multigrain.errors import LLMError, LLMUnavailable
from multigrain.llm.dispatch import Dispatcher
from multigrain.llm.job_queue import JobQueue
from multigrain.llm.ledger import Ledger
from multigrain.llm.retry_policy import Outcomes
from multigrain.llm.server import Server
from multigrain.terminal import say

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Shortest and longest time between two checks of a dead server, in seconds."""
GIVE_UP_AFTER, GIVE_UP_AT_FIRST = 900.0, 60.0
"""Seconds without an answer from any server before giving up; the second applies if none has ever answered."""
SUSPECT_AFTER = 60.0
"""Seconds after which failures are blamed on the last inputs, not on a server that looks alive."""


class Revival:
    """Bring dead servers back.

    Args:
        servers: all servers; while one of them is up, the others are waited for indefinitely.
        tasks: the task group that runs the revivals.
        dispatcher: sends the input with which a server is tried.
        queue: the source of this input.
        outcomes: told if no server comes back.
        ledger: its store is committed before the input is sent.
        wake: set when a server is back.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        tasks: asyncio.TaskGroup,
        dispatcher: Dispatcher,
        queue: JobQueue,
        outcomes: Outcomes,
        ledger: Ledger,
        wake: asyncio.Event,
    ) -> None:
        self._servers = servers
        self._tasks, self._dispatcher, self._queue = tasks, dispatcher, queue
        self._outcomes, self._store, self._wake = outcomes, ledger.store, wake
        self._revivals: list[asyncio.Task[None]] = []

    def start(self, server: Server, error: LLMError) -> None:
        """Stop sending to a server, and check it until it answers."""
        server.is_up = False
        self._revivals.append(self._tasks.create_task(self._revive(server, error)))

    def cancel(self) -> None:
        """Stop checking servers."""
        for revival in self._revivals:
            revival.cancel()

    async def _revive(self, server: Server, error: LLMError) -> None:
        """Wait until a dead server answers one input, then send to it again."""
        loop = asyncio.get_running_loop()
        if not server.outages:
            server.silent_since = loop.time()
            say(f"{server.client.address} gives no usable answer ({error}) Waiting for it; nothing is lost.")
        patience = GIVE_UP_AFTER if self._outcomes.ever_answered else GIVE_UP_AT_FIRST
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**server.outages)
        server.outages += 1
        while True:
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
            if loop.time() - server.silent_since > patience and not any(other.is_up for other in self._servers):
                said = (
                    f"{error} No usable answer for {patience:g} s. "
                    "Once the server is back, run the same command to resume."
                )
                self._outcomes.stop(LLMUnavailable(said))
                break
            if await server.client.is_alive() and await self._is_answering(server):
                break
        server.revive()
        self._wake.set()

    async def _is_answering(self, server: Server) -> bool:
        """Try a server that looks alive with one input, if possible a new one, which cannot be the cause itself."""
        job = self._queue.pop_new()
        if job is None and self._queue.next_due is not None:
            if asyncio.get_running_loop().time() - server.silent_since > SUSPECT_AFTER:
                server.charge_suspects()  # the inputs are the cause
                return True
            job = self._queue.pop_waiting()
        if job is None:
            return True
        call = self._dispatcher.launch(job, server, self.start)
        self._store.commit()
        if call is None:
            return False
        server.failures_in_row = 1
        await asyncio.wait([call])
        return server.failures_in_row == 0
