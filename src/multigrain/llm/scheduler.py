"""Send many requests: as many at once as the servers take, each answer kept at once, no input lost without a reason.

    scheduler    connects to the servers, and works until every input is settled
    queue        the inputs that have no answer yet; a waiting input holds no slot
    dispatch     what goes out
    outcomes     what comes back, and what becomes of the input
    revival      servers that failed, and are tried again

Inputs are streamed: in memory are only those under way and those that wait for another try, and while too many wait,
no new one is taken. Whatever stops everything, what is under way is waited for: it is paid for.
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
        clients: one for each server, not yet entered; they are entered only if a request is to be sent.
        inputs: the inputs with their requests, taken one by one as there is room.
        store: holds the answers of earlier runs, and receives the new ones.
        budget: what may be spent.
        concurrency: requests under way at once, at each server.
        tally: kept up to date meanwhile.

    Returns:
        The tally.

    Raises:
        ConfigError: nobody answers at any address.
        LLMRefused: a key, address or model is refused, or every request.
        LLMReplyError: no input had a usable answer.
        LLMUnavailable: all servers are dead. In each case what was answered is in the store.
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
        """The error that stops everything."""
        return self._queue.failure or self._outcomes.failure

    async def work(self) -> None:
        """Settle the inputs; connect to the servers only if one of them is not settled yet."""
        self._store.mark_lost()
        self._store.commit()  # nothing stays uncommitted while we wait: others may want to look at the store
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
        """Connect to the servers; of several, those that are not there are done without."""

        async def connect(server: Server) -> None:
            await entered.enter_async_context(server.client)
            await learn_dialect(server.client, request, self._ledger)

        outcomes = await asyncio.gather(*(connect(server) for server in self._servers), return_exceptions=True)
        absent = [error for error in outcomes if error is not None]
        for error in absent:
            if len(absent) == len(self._servers) or not isinstance(error, ConfigError | LLMUnavailable):
                raise error
            say(f"{error} Going on without this server.")
        self._servers = [server for server, error in zip(self._servers, outcomes, strict=True) if error is None]

    async def _settle_all(self) -> None:
        """Send and settle until nothing is left to do, or something stops everything."""
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
                self._store.commit()  # before anything that was launched goes out
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
        """The moment at which a job could be sent, if nothing else happens; None if only an event makes room."""
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
