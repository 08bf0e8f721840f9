"""Send each job that is due to the server with the most room, within the caps."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

from multigrain.errors import LLMError
from multigrain.llm.job import Job
from multigrain.llm.job_queue import JobQueue
from multigrain.llm.ledger import Call, Ledger
from multigrain.llm.protocol import Request
from multigrain.llm.retry_policy import Outcomes
from multigrain.llm.server import Server


class OnDead(Protocol):
    """A callback for a server that is considered dead."""

    def __call__(self, server: Server, error: LLMError) -> None:
        """Handle a server whose last call failed with this error."""


class Dispatcher:
    """Send jobs, and pass answers and errors on.

    Args:
        tasks: the task group that runs the calls.
        queue: the source of jobs.
        outcomes: receives answers and errors.
        ledger: records each call before it is sent.
        wake: set when a call has ended.
    """

    def __init__(
        self, *, tasks: asyncio.TaskGroup, queue: JobQueue, outcomes: Outcomes, ledger: Ledger, wake: asyncio.Event
    ) -> None:
        self._tasks, self._queue, self._outcomes, self._ledger, self._wake = tasks, queue, outcomes, ledger, wake
        self._tally = ledger.tally

    def fill(self, servers: Sequence[Server], on_dead: OnDead) -> None:
        """Launch jobs until no server has room, or no job is due."""
        now = asyncio.get_running_loop().time()
        while free := [server for server in servers if server.has_room(now)]:
            job = self._next_job(now)
            if job is None or not self.launch(job, min(free, key=lambda server: server.load), on_dead):
                return

    def launch(self, job: Job, server: Server, on_dead: OnDead) -> asyncio.Task[None] | None:
        """Send a request, unless it might exceed a cap. It goes out at the next await, so commit the store before that.

        Returns:
            The call as a task; None if the request waits for room under the cap.
        """
        request = job.request.suited(server.client.dialect)
        call = self._ledger.begin(job.key, request)
        if call is None:
            self._queue.wait(job, 0)
            if not self._tally.under_way:
                self._outcomes.park_the_rest()
            return None
        self._tally.under_way += 1
        server.under_way += 1
        return self._tasks.create_task(self._send(job, server, call, request, on_dead))

    def _next_job(self, now: float) -> Job | None:
        while job := self._queue.pop_waiting(now):
            if job.has_try:
                return job
            self._outcomes.park(job)
        return self._queue.pop_new() if self._queue.takes_new else None

    async def _send(self, job: Job, server: Server, call: Call, request: Request, on_dead: OnDead) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            answer = await server.client.complete(request)
        except LLMError as error:
            self._ledger.fail(call, error)
            if self._outcomes.failed(job, server, error):
                on_dead(server, error)
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                await asyncio.sleep(server.latency)  # the slot stays empty for as long as an answer would have taken
        else:
            self._ledger.end(call, answer)
            server.answered(loop.time(), loop.time() - started)
            self._outcomes.answered(job, server, call, answer, request.max_tokens)
        server.under_way -= 1
        self._tally.under_way -= 1
        self._wake.set()
