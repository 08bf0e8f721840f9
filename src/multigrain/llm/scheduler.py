"""Send many requests: as many at once as the servers take, each answer kept at once, no input lost without a reason.

Inputs are streamed: in memory are only those under way and those that wait for another try, and while too many wait,
no new one is taken. A waiting input holds no slot. What becomes of a failed call depends on its kind:

busy (429)       a random wait (full jitter), or as long as the server says (`Retry-After`), if that is longer
no answer        a random wait; counted against the input only if the server answers others meanwhile. A server that
                 answers nobody is left alone, looked after, and tried again with one input (a circuit breaker)
bad answer       asked again at once, with another seed; if it was cut, with a larger limit
refused          parked; a refused key or address stops everything

Whatever stops everything, what is under way is waited for: it is paid for.
"""

import asyncio
import heapq
import random
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain, count
from typing import Any

from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMUnavailable
from multigrain.llm.budget import Budget
from multigrain.llm.dialect import Dialect
from multigrain.llm.job import Job, reads
from multigrain.llm.ledger import Call, Ledger, Tally
from multigrain.llm.probe import learn_dialect
from multigrain.llm.prompted import Prompted
from multigrain.llm.protocol import BUSY, Answer, Client, Request
from multigrain.llm.server import Lane
from multigrain.llm.store import AnswerStore
from multigrain.progress import say

FIRST_WAIT, LONGEST_WAIT = 0.2, 8.0
"""Seconds. The wait after n others is drawn from 0 to min(LONGEST_WAIT, FIRST_WAIT * 2**n) (full jitter)."""
WAITING = 8
"""Inputs, for each request that may be under way, that may wait for another try before no new input is taken."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between looks at a dead server."""
GIVE_UP_AFTER, GIVE_UP_AT_FIRST = 900.0, 60.0
"""Seconds without an answer from any server; the second, where none has answered anything yet."""
SUSPECT_AFTER = 60.0
"""Seconds after which a server that looks alive, but answers none of the last inputs, is believed."""
HOPELESS_AFTER = 16
"""Inputs without a usable answer, before any has one, after which the next ones are not worth sending."""
BUDGET = "budget"
"""The reason of inputs that were not asked because a cap was reached."""


async def answer_all(
    clients: Sequence[Client],
    asks: Iterable[Prompted[Any]],
    store: AnswerStore,
    budget: Budget,
    concurrency: int = 8,
    tally: Tally | None = None,
) -> Tally:
    """Settle each input: from the store, or by asking a client. Afterwards the store has an answer or a reason for it.

    Args:
        clients: one a server, not yet entered; they are entered only if anything is to be asked.
        asks: what to prompted, taken one by one as there is room.
        store: holds the answers of earlier runs, and receives the new ones.
        budget: what may be spent.
        concurrency: requests under way at once, at each server.
        tally: is kept up to date while it works.

    Raises:
        ConfigError: nobody answers at any address.
        LLMRefused: a key, address or model is refused, or all that is asked.
        LLMReplyError: nothing that was asked had a usable answer.
        LLMUnavailable: all servers are dead. In each case what was answered is in the store.
    """
    ledger = Ledger(store, budget, tally or Tally())
    await _Run([Lane(client, concurrency) for client in clients], asks, ledger).work()
    return ledger.tally


class _Run:
    """One call of `answer_all`."""

    def __init__(self, lanes: list[Lane], asks: Iterable[Prompted[Any]], ledger: Ledger) -> None:
        self.lanes, self.ledger = lanes, ledger
        self.store, self.tally = ledger.store, ledger.tally
        self.asks, self.asks_left = iter(asks), True
        self.waiting: list[tuple[float, int, Job]] = []
        """A heap, by the moment of the next try."""
        self.numbers = count()
        self.jobs: dict[str, Job] = {}
        """Those under way or waiting, by key."""
        self.most_waiting = WAITING * sum(lane.most for lane in lanes)
        self.wake = asyncio.Event()
        self.revivals: list[asyncio.Task[None]] = []
        self.failure: Exception | None = None
        """What stops everything."""
        self.parked_in_vain: list[str] = []
        self.refusals_in_row = 0
        self.ever_answered = False
        self.is_first = not ledger.budget.spent.calls
        """Whether the store held nothing before."""

    async def work(self) -> None:
        self.store.mark_lost()
        self.store.commit()  # nothing stays uncommitted while we wait: others may want to look at the store
        self.loop = asyncio.get_running_loop()
        try:
            if first := self._next_new():
                self.store.commit()
                self._wait(first, 0)
                async with AsyncExitStack() as entered:
                    await self._enter(entered, first.request)
                    await self._work()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self.store.commit()
        if self.failure:
            raise self.failure

    async def _enter(self, entered: AsyncExitStack, request: Request) -> None:
        """Connect to the servers; of several, those that are not there are done without."""

        async def connect(lane: Lane) -> None:
            await entered.enter_async_context(lane.client)
            await learn_dialect(lane.client, request, self.ledger)

        outcomes = await asyncio.gather(*(connect(lane) for lane in self.lanes), return_exceptions=True)
        absent = [error for error in outcomes if error is not None]
        for error in absent:
            if len(absent) == len(self.lanes) or not isinstance(error, ConfigError | LLMUnavailable):
                raise error
            say(f"{error} Going on without this server.")
        self.lanes = [lane for lane, error in zip(self.lanes, outcomes, strict=True) if error is None]

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as self.tasks:
            while self._is_going_on():
                self._dispatch()
                self.store.commit()  # before anything that was launched goes out
                if self._is_going_on():
                    await self._sleep()
            for revival in self.revivals:
                revival.cancel()
            while self.tally.under_way:
                self.store.commit()
                await self.wake.wait()
                self.wake.clear()

    def _is_going_on(self) -> bool:
        return self.failure is None and bool(self.waiting or self.asks_left or self.tally.under_way)

    # What goes out

    def _dispatch(self) -> None:
        now = self.loop.time()
        while lanes := [lane for lane in self.lanes if lane.has_room(now)]:
            job = self._next_job(now)
            if job is None or not self._launch(job, min(lanes, key=lambda lane: lane.load)):
                return

    def _next_job(self, now: float) -> Job | None:
        while self.waiting and self.waiting[0][0] <= now:
            job = heapq.heappop(self.waiting)[-1]
            if job.has_try:
                return job
            self._park(job)
        return self._next_new() if len(self.waiting) < self.most_waiting else None

    def _next_new(self) -> Job | None:
        """The next input that is not settled."""
        try:
            for prompted in self.asks:
                if job := self._unsettled(prompted):
                    self.jobs[job.key] = job
                    return job
        except Exception as error:  # say, a damaged line of the input
            self.failure = error
        self.asks_left = False
        return None

    def _unsettled(self, prompted: Prompted[Any]) -> Job | None:
        """The input as it stands in the store; None if there is nothing to do for it."""
        key = prompted.request.key
        if twin := self.jobs.get(key):
            twin.times += 1
            return None
        state, forgiven = self.store.state(key) or ("new", 0)
        if state == "new" and self.is_first:
            return Job(prompted, key, prompted.request)
        job = None if state == "batched" else self._recalled(prompted, key, state, forgiven)
        if job and state == "parked" and not job.reopen():
            self.tally.parked += 1
            return None
        return job

    def _recalled(self, prompted: Prompted[Any], key: str, state: str, forgiven: int) -> Job | None:
        """The input with what became of its earlier tries; None if one of them serves."""
        if state == "ok" and (answer := self.store.answer(key)) and reads(prompted, answer) is None:
            self.tally.answered += 1
            return None
        job = Job(prompted, key, prompted.request)
        for number, (call, limit, answer) in enumerate(self.store.replies(key), start=1):
            error = reads(prompted, answer)
            if error is None:  # from a batch; or the reader has learnt what it could not read before
                self.store.accept(key, call)
                self.tally.answered += 1
                return None
            job.misread(error, limit)
            if number <= forgiven:
                job.forgive()
        return job

    def _launch(self, job: Job, lane: Lane) -> asyncio.Task[None] | None:
        """Send a request, unless that might pass a cap."""
        request = job.request.suited(lane.client.dialect)
        call = self.ledger.begin(job.key, request)
        if call is None:
            self._wait(job, 0)
            if not self.tally.under_way:
                self._park_the_rest()
            return None
        self.tally.under_way += 1
        lane.under_way += 1
        return self.tasks.create_task(self._call(job, lane, call, request))

    # What comes back

    async def _call(self, job: Job, lane: Lane, call: Call, request: Request) -> None:
        started = self.loop.time()
        try:
            answer = await lane.client.complete(request)
        except LLMError as error:
            self.ledger.fail(call, error)
            self._failed(job, lane, error)
            if error.status == BUSY:  # its slot stays empty for as long as an answer would have taken
                await asyncio.sleep(lane.latency)
        else:
            self.ledger.end(call, answer)
            self.ever_answered = True
            lane.answered(self.loop.time(), self.loop.time() - started)
            self._notice_thinking(job, lane, answer)
            self._read(job, call, answer, request.max_tokens)
        lane.under_way -= 1
        self.tally.under_way -= 1
        self.wake.set()

    def _notice_thinking(self, job: Job, lane: Lane, answer: Answer) -> None:
        """From now on the server is asked as one whose model thinks, and remembered as such."""
        known = lane.client.dialect
        if (known and known.thinks) or not job.prompted.shows_thinking(answer):
            return
        lane.client.dialect = replace(known or Dialect(), thinks=True)
        if known:  # of raw completions nobody knows the rest
            self.store.learn(lane.client.address, job.request.asked_of, lane.client.dialect)

    def _read(self, job: Job, call: Call, answer: Answer, limit: int) -> None:
        error = reads(job.prompted, answer)
        if error is None:
            self.store.accept(job.key, call.number)
            del self.jobs[job.key]
            self.tally.answered += job.times
            self.refusals_in_row = 0
            return
        self.ledger.count(error)
        job.misread(error, limit)
        self._wait(job, 0)

    def _failed(self, job: Job, lane: Lane, error: LLMError) -> None:
        job.error = error
        now = self.loop.time()
        if isinstance(error, LLMRefused):
            lane.answered(now)
            self._refused(job, error)
        elif isinstance(error, LLMUnavailable) and error.status == BUSY:
            job.busy += 1
            pause = self._pause(job, error)
            lane.busy(now, pause, error.retry_after is not None)
            if pause > LONGEST_WAIT and now >= lane.told_until:
                say(f"{lane.client.address} asks to wait {pause:.0f} s ({error})")
                lane.told_until = now + pause
            self._wait(job, now + pause)
        else:
            if lane.failed(job.charge):
                lane.is_up = False
                self.revivals.append(self.tasks.create_task(self._revive(lane, error)))
            self._wait(job, now + self._pause(job, error))

    def _refused(self, job: Job, error: LLMRefused) -> None:
        """Something is wrong with the input; or with the key, the address or the model."""
        if error.status in (400, 413, 422):
            self._park(job)
            return
        self.refusals_in_row += 1
        if not self.ever_answered or self.refusals_in_row >= HOPELESS_AFTER:
            self.failure = self.failure or error
        job.charge()
        self._wait(job, self.loop.time() + self._pause(job, error))

    def _pause(self, job: Job, error: LLMError) -> float:
        """Seconds until the next try."""
        wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**job.waits))
        job.waits += 1
        asked = error.retry_after if isinstance(error, LLMUnavailable) else None
        return max(wait, asked or 0.0)  # some servers say 0 whatever their state

    def _wait(self, job: Job, until: float) -> None:
        heapq.heappush(self.waiting, (until, next(self.numbers), job))

    def _park(self, job: Job) -> None:
        assert job.error
        self._settle_without_answer(job, job.error.reason, str(job.error))
        if self.tally.answered:
            return
        self.parked_in_vain.append(job.key)
        if len(self.parked_in_vain) >= HOPELESS_AFTER:  # better told now than after the last input
            for key in self.parked_in_vain:
                self.store.put_back(key)
            said = f"none of the first {HOPELESS_AFTER} inputs had a usable answer; the last one: {job.error}"
            self.failure = self.failure or type(job.error)(said, job.error.status)

    def _park_the_rest(self) -> None:
        """A cap is reached and nothing is under way that might leave something over."""
        waiting = [job for _, _, job in self.waiting]
        self.waiting.clear()
        for job in chain(waiting, iter(self._next_new, None)):
            self._settle_without_answer(job, BUDGET, self.ledger.obstacle or "")

    def _settle_without_answer(self, job: Job, reason: str, detail: str) -> None:
        self.store.park(job.key, reason, detail)
        del self.jobs[job.key]
        self.tally.parked += job.times

    # Waiting

    async def _sleep(self) -> None:
        """Until a call has come back, a server is back, or a waiting input is due and could be sent."""
        alarm = None
        rooms = [lane.held_until for lane in self.lanes if lane.is_up and lane.under_way < lane.limit]
        waits_for_budget = self.ledger.obstacle and self.tally.under_way
        if rooms and not waits_for_budget:
            moments = [max(min(rooms), self.waiting[0][0])] if self.waiting else []
            if self.asks_left and len(self.waiting) < self.most_waiting:
                moments.append(min(rooms))
            alarm = self.loop.call_at(min(moments), self.wake.set) if moments else None
        await self.wake.wait()
        self.wake.clear()
        if alarm:
            alarm.cancel()

    async def _revive(self, lane: Lane, error: LLMError) -> None:
        """Look after a dead server until it answers one input; then let the others come back."""
        if not lane.outages:
            lane.silent_since = self.loop.time()
            say(f"{lane.client.address} gives no usable answer ({error}) Waiting for it; nothing is lost.")
        patience = GIVE_UP_AFTER if self.ever_answered else GIVE_UP_AT_FIRST
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**lane.outages)
        lane.outages += 1
        while True:
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
            if self.loop.time() - lane.silent_since > patience and not any(other.is_up for other in self.lanes):
                said = f"{error} No usable answer for {patience:g} s; once it is mended, the same command goes on."
                self.failure = self.failure or LLMUnavailable(said)
                break
            if await lane.client.is_alive() and await self._is_answering(lane):
                break
        lane.revive()
        self.wake.set()

    async def _is_answering(self, lane: Lane) -> bool:
        """Try a server that looks alive with one input: if possible a new one, which cannot be the cause itself."""
        job = self._next_new()
        if job is None and self.waiting:
            if self.loop.time() - lane.silent_since > SUSPECT_AFTER:
                lane.charge_suspects()  # it is they
                return True
            job = heapq.heappop(self.waiting)[-1]
        if job is None:
            return True
        call = self._launch(job, lane)
        self.store.commit()
        if call is None:
            return False
        lane.failures_in_row = 1
        await asyncio.wait([call])
        return lane.failures_in_row == 0
