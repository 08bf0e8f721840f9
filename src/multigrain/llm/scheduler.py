"""Send many requests: as many at once as the servers take, each answer kept at once, no input lost without a reason.

Inputs are streamed: in memory are only those under way and those that wait for another try, and while too many wait,
no new one is taken. A waiting input holds no slot. What becomes of a failed call depends on its kind:

busy (429)       the server's word is obeyed (`Retry-After`), else a random wait (full jitter)
no answer        a random wait; counted against the input only if the server answers others meanwhile. A server that
                 answers nobody is left alone, looked after, and tried again with a new input (a circuit breaker)
bad answer       asked again at once, with another seed; if it was cut, with a larger limit
refused          parked; a refused key or address stops everything
"""

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, count

from multigrain.errors import LLMDeclined, LLMError, LLMRefused, LLMReplyError, LLMTruncated, LLMUnavailable
from multigrain.llm.budget import Budget, Usage
from multigrain.llm.client import Answer, Ask, Client, Request
from multigrain.llm.dialect import Dialect
from multigrain.llm.endpoint import BUSY
from multigrain.llm.lane import Lane
from multigrain.llm.probe import find_dialect
from multigrain.llm.store import AnswerStore
from multigrain.progress import say

TRANSPORT_TRIES = 8
REPLY_TRIES = 4
CUT_TRIES = 3
"""Each with twice the limit of the one before."""
BUSY_TRIES = 100
FIRST_WAIT, LONGEST_WAIT = 0.2, 8.0
"""Seconds. The wait after n others is drawn from 0 to min(LONGEST_WAIT, FIRST_WAIT * 2**n) (full jitter)."""
LONGEST_OBEYED = 3600.0
"""Seconds that a server may ask to wait."""
WAITING = 8
"""Inputs, for each request that may be under way, that may wait for another try before no new input is taken."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between looks at a dead server."""
GIVE_UP_AFTER, GIVE_UP_AT_FIRST = 900.0, 60.0
"""Seconds without an answer from any server; the second, where none has answered anything yet."""
HOPELESS_AFTER = 16
"""Inputs without a usable answer, before any has one, after which the next ones are not worth sending."""
BUDGET = "budget"
"""The reason of inputs that were not asked because a cap was reached."""
PROBE = "probe"
"""The key of calls that serve no input."""
NEW_SEED = 1_000_003
"""Step between the seeds of the tries of one input."""


@dataclass
class Tally:
    """How the work stands: what progress shows."""

    answered: int = 0
    parked: int = 0
    under_way: int = 0
    sent: int = 0
    """Requests that went out now; other answers were in the store."""
    spent: Usage = field(default_factory=Usage)
    """By these requests; calls under way count with their bounds."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed calls, by kind."""


@dataclass
class Job:
    """An input that has no answer yet."""

    ask: Ask
    key: str
    request: Request
    """As it is sent next: after bad answers with another seed or a larger limit than the input's own."""
    replies: int = 0
    bad: int = 0
    cut: int = 0
    longest: int = 0
    """The largest limit under which an answer was cut."""
    declined: bool = False
    busy: int = 0
    waits: int = 0
    charged: int = 0
    """Failures of transport that were the input's own."""
    error: LLMError | None = None

    @property
    def has_try(self) -> bool:
        """Whether it may be asked once more."""
        few = self.charged < TRANSPORT_TRIES and self.busy < BUSY_TRIES
        return few and self.bad < REPLY_TRIES and self.cut < CUT_TRIES and not self.declined

    def charge(self) -> None:
        """Count a failure of transport against the input."""
        self.charged += 1

    def misread(self, error: LLMReplyError, limit: int) -> None:
        """Count a bad answer, which came under this limit, and prepare the next try."""
        self.error = error
        self.replies += 1
        if isinstance(error, LLMTruncated):
            self.cut += 1
            self.longest = max(self.longest, limit)
            self.request = replace(self.request, max_tokens=max(self.request.max_tokens, 2 * limit))
        else:
            self.declined |= isinstance(error, LLMDeclined)
            self.bad += 1
            self.request = replace(self.request, seed=self.ask.request.seed + self.replies * NEW_SEED)

    def forgive(self) -> None:
        """All tries are its again."""
        self.bad = self.cut = 0
        self.declined = False

    def reopen(self) -> bool:
        """Whether a parked input is to be asked again: its answers were cut, and the limit has been raised since."""
        if not isinstance(self.error, LLMTruncated) or self.ask.request.max_tokens <= self.longest:
            return False
        self.request = self.ask.request
        self.forgive()
        return True


async def answer_all(
    clients: Sequence[Client],
    asks: Iterable[Ask],
    store: AnswerStore,
    budget: Budget,
    concurrency: int = 8,
    tally: Tally | None = None,
) -> Tally:
    """Settle each input: from the store, or by asking a client. Afterwards the store has an answer or a reason for it.

    Args:
        clients: one a server, not yet entered; they are entered only if anything is to be asked.
        asks: what to ask, taken one by one as there is room.
        store: holds the answers of earlier runs, and receives the new ones.
        budget: what may be spent.
        concurrency: requests under way at once, at each server.
        tally: is kept up to date while it works.

    Raises:
        ConfigError: nobody answers at an address.
        LLMRefused: a key, address or model is refused, or all that is asked.
        LLMUnavailable: all servers are dead. In each case what was answered is in the store.
    """
    run = _Run([Lane(client, concurrency) for client in clients], asks, store, budget, tally or Tally())
    await run.work()
    return run.tally


async def learn_dialect(client: Client, request: Request, store: AnswerStore, budget: Budget) -> Dialect:
    """How an entered client's server is spoken to: as the store knows, or as a probe finds out.

    Raises:
        LLMRefused, LLMUnavailable: see `find_dialect`.
    """
    await _Run([lane := Lane(client, 1)], [], store, budget, Tally())._learn_dialect(lane, request)
    return client.dialect or Dialect()


class _Run:
    """One call of `answer_all`."""

    def __init__(
        self, lanes: list[Lane], asks: Iterable[Ask], store: AnswerStore, budget: Budget, tally: Tally
    ) -> None:
        self.lanes, self.store, self.budget, self.tally = lanes, store, budget, tally
        self.asks, self.asks_left = iter(asks), True
        self.waiting: list[tuple[float, int, Job]] = []
        """A heap, by the moment of the next try."""
        self.numbers = count()
        self.keys: set[str] = set()
        """Of the inputs under way or waiting."""
        self.most_waiting = WAITING * sum(lane.most for lane in lanes)
        self.obstacle: str | None = None
        self.wake = asyncio.Event()
        self.revivals: list[asyncio.Task[None]] = []
        self.parked_in_vain: list[str] = []
        self.refusals_in_row = 0
        self.ever_answered = False
        self.is_first = not budget.spent.calls
        """Whether the store held nothing before."""

    async def work(self) -> None:
        self.store.mark_lost()
        self.loop = asyncio.get_running_loop()
        try:
            first = self._next_new()
            if first is None:
                return
            self._wait(first, 0)
            async with AsyncExitStack() as entered:
                for lane in self.lanes:
                    await entered.enter_async_context(lane.client)
                await self._work(first)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self.store.commit()

    async def _work(self, first: Job) -> None:
        async with asyncio.TaskGroup() as self.tasks:
            await asyncio.gather(*(self._learn_dialect(lane, first.request) for lane in self.lanes))
            while self.waiting or self.asks_left or self.tally.under_way:
                self._dispatch()
                self.store.commit()  # before anything that was launched goes out
                if self.waiting or self.asks_left or self.tally.under_way:
                    await self._sleep()
            for revival in self.revivals:
                revival.cancel()

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
        for ask in self.asks:
            if job := self._unsettled(ask):
                self.keys.add(job.key)
                return job
        self.asks_left = False
        return None

    def _unsettled(self, ask: Ask) -> Job | None:
        """The input as it stands in the store; None if there is nothing to do for it."""
        key = ask.request.key
        if key in self.keys:
            return None
        state, forgiven = self.store.state(key) or ("new", 0)
        if state == "new" and self.is_first:
            return Job(ask, key, ask.request)
        job = None if state == "batched" else self._recalled(ask, key, state, forgiven)
        if job and state == "parked" and not job.reopen():
            self.tally.parked += 1
            return None
        return job

    def _recalled(self, ask: Ask, key: str, state: str, forgiven: int) -> Job | None:
        """The input with what became of its earlier tries; None if one of them serves."""
        if state == "ok" and (answer := self.store.answer(key)) and reads(ask, answer) is None:
            self.tally.answered += 1
            return None
        job = Job(ask, key, ask.request)
        for number, (call, limit, answer) in enumerate(self.store.replies(key), start=1):
            error = reads(ask, answer)
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
        bound = self.budget.bound(job.request)
        self.obstacle = self.budget.obstacle(bound)
        if self.obstacle:
            self._wait(job, 0)
            if not self.tally.under_way:
                self._park_the_rest(self.obstacle)
            return None
        self.tally.under_way += 1
        lane.under_way += 1
        call = self._begin(job.key, job.request, bound)
        return self.tasks.create_task(self._call(job, lane, call, bound))

    def _begin(self, key: str, request: Request, bound: Usage) -> int:
        self.budget.spent += bound
        self.tally.spent += bound
        self.tally.sent += 1
        return self.store.begin_call(key, request.max_tokens, bound)

    # What comes back

    async def _call(self, job: Job, lane: Lane, call: int, bound: Usage) -> None:
        started = self.loop.time()
        try:
            answer = await lane.client.complete(job.request)
        except LLMError as error:
            self._fail(call, bound, error)
            self._failed(job, lane, error)
            if error.status == BUSY:  # its slot stays empty for as long as an answer would have taken
                await asyncio.sleep(lane.latency)
        else:
            self._end(call, bound, answer)
            self.ever_answered = True
            lane.answered(self.loop.time(), self.loop.time() - started)
            self._read(job, call, answer)
        lane.under_way -= 1
        self.tally.under_way -= 1
        self.wake.set()

    def _end(self, call: int, bound: Usage, answer: Answer) -> None:
        usage = self.budget.actual(answer, bound)
        self.store.end_call(call, answer, usage)
        self._replace(bound, usage)

    def _fail(self, call: int, bound: Usage, error: LLMError) -> None:
        usage = bound if error.billed else Usage(calls=1)
        self.store.fail_call(call, str(error), usage)
        self.tally.errors[f"HTTP {error.status}" if error.status else error.reason] += 1
        self._replace(bound, usage)

    def _replace(self, bound: Usage, usage: Usage) -> None:
        self.budget.spent += usage - bound
        self.tally.spent += usage - bound

    def _read(self, job: Job, call: int, answer: Answer) -> None:
        error = reads(job.ask, answer)
        if error is None:
            self.store.accept(job.key, call)
            self.keys.discard(job.key)
            self.tally.answered += 1
            self.refusals_in_row = 0
            return
        self.tally.errors[error.reason] += 1
        job.misread(error, job.request.max_tokens)
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
            lane.busy(now, pause)
            self._wait(job, now + pause)
        else:
            if lane.failed(job.charge):
                lane.is_up = False
                self.revivals.append(self.tasks.create_task(self._revive(lane, error)))
            self._wait(job, now + self._pause(job, error))

    def _refused(self, job: Job, error: LLMRefused) -> None:
        """Something is wrong with the input; or, where nothing is answered, with the key, the address or the model."""
        self.refusals_in_row += 1
        concerns_input = error.status in (400, 413, 422)
        if not concerns_input and (not self.ever_answered or self.refusals_in_row >= HOPELESS_AFTER):
            raise error
        if concerns_input:
            self._park(job)
        else:
            job.charge()
            self._wait(job, self.loop.time() + self._pause(job, error))

    def _pause(self, job: Job, error: LLMError) -> float:
        """Seconds until the next try."""
        asked = error.retry_after if isinstance(error, LLMUnavailable) else None
        if asked is not None:
            return min(asked, LONGEST_OBEYED)
        wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**job.waits))
        job.waits += 1
        return wait

    def _wait(self, job: Job, until: float) -> None:
        heapq.heappush(self.waiting, (until, next(self.numbers), job))

    def _park(self, job: Job) -> None:
        assert job.error
        self.store.park(job.key, job.error.reason, str(job.error))
        self.keys.discard(job.key)
        self.tally.parked += 1
        if self.tally.answered == 0:
            self.parked_in_vain.append(job.key)
            if len(self.parked_in_vain) >= HOPELESS_AFTER:
                self._stop_in_vain(job.error)

    def _stop_in_vain(self, error: LLMError) -> None:
        """Nothing that was asked had a usable answer: better told now than after the last one."""
        for key in self.parked_in_vain:
            self.store.put_back(key)
        raise type(error)(
            f"none of the first {HOPELESS_AFTER} inputs had a usable answer; the last one: {error}", error.status
        )

    def _park_the_rest(self, obstacle: str) -> None:
        """A cap is reached and nothing is under way that might leave something over."""
        waiting = [job for _, _, job in self.waiting]
        self.waiting.clear()
        for job in chain(waiting, iter(self._next_new, None)):
            self.keys.discard(job.key)
            self.store.park(job.key, BUDGET, obstacle)
            self.tally.parked += 1

    # Waiting

    async def _sleep(self) -> None:
        """Until a call has come back, a server is back, or a waiting input is due and could be sent."""
        alarm = None
        rooms = [lane.held_until for lane in self.lanes if lane.is_up and lane.under_way < lane.limit]
        if rooms and not self.obstacle and self.waiting:
            alarm = self.loop.call_at(max(self.waiting[0][0], min(rooms)), self.wake.set)
        await self.wake.wait()
        self.wake.clear()
        if alarm:
            alarm.cancel()

    async def _revive(self, lane: Lane, error: LLMError) -> None:
        """Look after a dead server until it answers; then let a new input try it, before the others come back."""
        if not lane.outages:
            say(f"{lane.client.address} does not answer ({error}) Waiting for it; nothing is lost.")
        patience = GIVE_UP_AFTER if self.ever_answered else GIVE_UP_AT_FIRST
        started, pause = self.loop.time(), min(LONGEST_PAUSE, FIRST_PAUSE * 2**lane.outages)
        lane.outages += 1
        while True:
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
            if self.loop.time() - started > patience and not any(other.is_up for other in self.lanes):
                raise LLMUnavailable(f"{error} No usable sign of life for {patience:g} s; the same command goes on.")
            if await lane.client.is_alive() and await self._is_answering(lane):
                break
        lane.revive()
        self.wake.set()

    async def _is_answering(self, lane: Lane) -> bool:
        """Try a server that looks alive with an input that has not failed before."""
        job = self._next_new()
        call = self._launch(job, lane) if job else None
        if call is None:  # only inputs are left that failed before: find out whether it is they
            lane.charge_suspects()
            return True
        self.store.commit()
        lane.failures_in_row = 1
        await call
        return lane.failures_in_row == 0

    async def _learn_dialect(self, lane: Lane, request: Request) -> None:
        """Find out how the server can be held to a schema, unless that is known."""
        client = lane.client
        if request.schema is None or client.dialect is not None:
            return
        client.dialect = self.store.dialect(client.address, request.model)
        if client.dialect is None:
            client.dialect = await find_dialect(request, lambda asked, dialect: self._probe(client, asked, dialect))
            if not self.obstacle:
                self.store.learn(client.address, request.model, client.dialect)

    async def _probe(self, client: Client, request: Request, dialect: Dialect) -> Answer:
        """One call that serves no input, within the caps like any other."""
        bound = self.budget.bound(request)
        self.obstacle = self.budget.obstacle(bound)
        if self.obstacle:
            raise LLMReplyError(self.obstacle)
        client.dialect = dialect
        call = self._begin(PROBE, request, bound)
        self.store.commit()
        try:
            answer = await client.complete(request)
        except LLMError as error:
            self._fail(call, bound, error)
            raise
        self._end(call, bound, answer)
        return answer


def reads(ask: Ask, answer: Answer) -> LLMReplyError | None:
    """What is wrong with an answer; None if it can be used."""
    if answer.finish_reason == "content_filter":
        return LLMDeclined(f"the model declined to answer: {answer.text[:200]}")
    try:
        ask.read(answer)
    except LLMReplyError as error:
        return error
    return None
