"""Send many requests concurrently, store each answer at once, and account for every input.

    scheduler      connects to the servers, and works until every input is settled
    job_queue      holds the unanswered inputs; a waiting input takes no slot
    dispatch       sends requests
    retry_policy   settles inputs by answers and errors
    revival        retries servers that failed

Inputs are streamed: only those under way or waiting for a retry are in memory, and while too many wait, no new one is
taken. Whatever stops the work, requests under way are waited for, because they are paid for.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from multigrain.errors import ConfigError, LLMUnavailable
from multigrain.llm.budget import Budget
from multigrain.llm.dispatch import Dispatcher
from multigrain.llm.job_queue import JobQueue
from multigrain.llm.ledger import Ledger, Tally
from multigrain.llm.probe import learn_dialect
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Client, Request
from multigrain.llm.retry_policy import Outcomes
from multigrain.llm.revival import Revival
from multigrain.llm.server import Server
from multigrain.llm.store import AnswerStore
from multigrain.terminal import say


async def answer_all(
    clients: Sequence[Client],
    inputs: Iterable[Prompted[Any]],
    store: AnswerStore,
    budget: Budget,
    concurrency: int = 8,
    tally: Tally | None = None,
) -> Tally:
    """Settle each input, from the store or by a client; afterwards the store has an answer or a reason for each.

    Args:
        clients: one per server, not yet entered; they are entered only if a request must be sent.
        inputs: the inputs with their requests, taken one by one as there is room.
        store: holds the answers of earlier runs, and receives the new ones.
        budget: the spending caps.
        concurrency: requests under way at once, per server.
        tally: updated during the work.

    Returns:
        The tally.

    Raises:
        ConfigError: no server answers at any address.
        LLMRefused: a key, address or model is refused, or every request is.
        LLMReplyError: no input had a usable answer.
        LLMUnavailable: all servers are dead.

    Whatever is raised, all answers so far are in the store.
    """
    ledger = Ledger(store, budget, tally or Tally())
    servers = [Server(client, concurrency) for client in clients]
    await _Scheduler(servers, inputs, ledger).work()
    return ledger.tally


class _Scheduler:
    """One call of `answer_all`."""

    def __init__(self, servers: list[Server], inputs: Iterable[Prompted[Any]], ledger: Ledger) -> None:
        self._servers, self._ledger = servers, ledger
        self._store, self._tally = ledger.store, ledger.tally
        self._queue = JobQueue(inputs, ledger, sum(server.most for server in servers))
        self._outcomes = Outcomes(self._queue, ledger)
        self._wake = asyncio.Event()

    @property
    def _failure(self) -> Exception | None:
        """The error that stops the work."""
        return self._queue.failure or self._outcomes.failure

    async def work(self) -> None:
        """Settle the inputs; connect to the servers only if one of them is not settled yet."""
        self._store.mark_lost()
        self._store.commit()  # leave nothing uncommitted while waiting: others may read the store
        try:
            if first := self._queue.pop_new():
                self._store.commit()
                self._queue.wait(first, 0)
                async with AsyncExitStack() as entered:
                    await self._connect(entered, first.request)
                    await self._settle_all()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._store.commit()
        if self._failure:
            raise self._failure

    async def _connect(self, entered: AsyncExitStack, request: Request) -> None:
        """Connect to the servers; continue without absent ones, unless all are absent."""

        async def connect(server: Server) -> None:
            await entered.enter_async_context(server.client)
            await learn_dialect(server.client, request, self._ledger)

        outcomes = await asyncio.gather(*(connect(server) for server in self._servers), return_exceptions=True)
        absent = [error for error in outcomes if error is not None]
        for error in absent:
            if len(absent) == len(self._servers) or not isinstance(error, ConfigError | LLMUnavailable):
                raise error
            say(f"{error} Continuing without this server.")
        self._servers = [server for server, error in zip(self._servers, outcomes, strict=True) if error is None]

    async def _settle_all(self) -> None:
        """Send and settle until nothing is left to do, or an error stops the work."""
        queue, outcomes, ledger, wake = self._queue, self._outcomes, self._ledger, self._wake
        async with asyncio.TaskGroup() as tasks:
            dispatcher = Dispatcher(tasks=tasks, queue=queue, outcomes=outcomes, ledger=ledger, wake=wake)
            revival = Revival(
                self._servers,
                tasks=tasks,
                dispatcher=dispatcher,
                queue=queue,
                outcomes=outcomes,
                ledger=ledger,
                wake=wake,
            )
            while self._is_going_on():
                dispatcher.fill(self._servers, revival.start)
                self._store.commit()  # before the launched requests go out
                if self._is_going_on():
                    await self._sleep()
            revival.cancel()
            while self._tally.under_way:
                self._store.commit()
                await wake.wait()
                wake.clear()

    def _is_going_on(self) -> bool:
        return self._failure is None and (not self._queue.is_empty or bool(self._tally.under_way))

    async def _sleep(self) -> None:
        """Sleep until a call has ended, a server is back, or a job could be sent."""
        moment = self._next_dispatch()
        alarm = None if moment is None else asyncio.get_running_loop().call_at(moment, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if alarm:
            alarm.cancel()

    def _next_dispatch(self) -> float | None:
        """Return the earliest time at which a job could be sent; None if only an event can make room."""
        slots = [server.held_until for server in self._servers if server.is_up and server.under_way < server.limit]
        waits_for_budget = self._ledger.obstacle and self._tally.under_way
        if not slots or waits_for_budget:
            return None
        earliest_slot = min(slots)
        moments = []
        if (next_due := self._queue.next_due) is not None:
            moments.append(max(earliest_slot, next_due))
        if self._queue.has_new and self._queue.takes_new:
            moments.append(earliest_slot)
        return min(moments, default=None)
