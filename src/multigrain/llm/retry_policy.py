"""Decide after each call whether its input is answered, waits for a retry, or is parked.

busy (429)       a random wait (full jitter), or the server's `Retry-After` if that is longer
no answer        a random wait; counts against the input only if the server answers others meanwhile
bad answer       sent again at once, with another seed; with a larger limit if it was truncated
refused          parked; a refused key or address stops everything
"""

import asyncio
import random
from dataclasses import replace
from http import HTTPStatus

from multigrain.errors import LLMError, LLMRefused, LLMUnavailable
from multigrain.llm.dialect import Dialect
from multigrain.llm.job import Job
from multigrain.llm.job_queue import JobQueue
from multigrain.llm.ledger import Call, Ledger
from multigrain.llm.protocol import Answer
from multigrain.llm.server import Server
from multigrain.terminal import say

FIRST_WAIT, LONGEST_WAIT = 0.2, 8.0
"""Seconds. After n waits, the next is drawn from 0 to min(LONGEST_WAIT, FIRST_WAIT * 2**n) (full jitter)."""
HOPELESS_AFTER = 16
"""Inputs without a usable answer after which the work stops, if no input has one; also refusals in a row."""
BUDGET = "budget"
"""Parking reason of inputs that were not sent because a cap was reached."""
REQUEST_FAULTS = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
"""Statuses that refuse only this request, not the key, the address or the model."""


class Outcomes:
    """Settle inputs, or return them to the queue.

    Attributes:
        failure: the first error that stops the work.
        ever_answered: whether any server has answered anything.
    """

    def __init__(self, queue: JobQueue, ledger: Ledger) -> None:
        self.failure: LLMError | None = None
        self.ever_answered = False
        self._queue, self._ledger = queue, ledger
        self._store, self._tally = ledger.store, ledger.tally
        self._parked_in_vain: list[str] = []
        """Keys of the inputs that were parked before any input was answered."""
        self._refusals_in_row = 0

    def stop(self, error: LLMError) -> None:
        """Stop the work with this error, unless another one already has."""
        self.failure = self.failure or error

    def answered(self, job: Job, server: Server, call: Call, answer: Answer, limit: int) -> None:
        """Accept an answer given under this token limit, or have the job sent again."""
        self.ever_answered = True
        self._notice_reasoning(job, server, answer)
        fault = job.prompted.fault_in(answer)
        if fault is None:
            self._store.accept(job.key, call.number)
            self._queue.discard(job)
            self._tally.answered += job.times
            self._refusals_in_row = 0
            return
        self._ledger.count(fault)
        job.misread(fault, limit)
        self._queue.wait(job, 0)

    def failed(self, job: Job, server: Server, error: LLMError) -> bool:
        """Handle a call without an answer.

        Returns:
            Whether the server is considered dead from now on.
        """
        job.error = error
        now = asyncio.get_running_loop().time()
        if isinstance(error, LLMRefused):
            server.answered(now)
            self._refused(job, error)
            return False
        if isinstance(error, LLMUnavailable) and error.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._busy(job, server, error, now)
            return False
        is_dead = server.failed(job.charge)
        self._queue.wait(job, now + _draw_wait(job, error))
        return is_dead

    def park(self, job: Job) -> None:
        """Settle a job without an answer, and stop the work if no input gets one."""
        assert job.error
        self._settle_without_answer(job, job.error.reason, str(job.error))
        if self._tally.answered:
            return
        self._parked_in_vain.append(job.key)
        if len(self._parked_in_vain) >= HOPELESS_AFTER:  # tell now, not after the last input
            for key in self._parked_in_vain:
                self._store.put_back(key)
            said = f"none of the first {HOPELESS_AFTER} inputs had a usable answer; the last error: {job.error}"
            self.stop(type(job.error)(said, job.error.status))

    def park_the_rest(self) -> None:
        """Settle all jobs without an answer: a cap is reached, and no call under way can free room below it."""
        for job in self._queue.drain():
            self._settle_without_answer(job, BUDGET, self._ledger.obstacle or "")

    def _notice_reasoning(self, job: Job, server: Server, answer: Answer) -> None:
        """Remember that the model reasons when an answer first shows it."""
        known = server.client.dialect
        if (known and known.is_reasoning_model) or not job.prompted.shows_reasoning(answer):
            return
        server.client.dialect = replace(known or Dialect(), is_reasoning_model=True)
        if known:  # for raw completions, the rest of the dialect is unknown
            self._store.learn(server.client.address, job.request.dialect_key, server.client.dialect)

    def _busy(self, job: Job, server: Server, error: LLMUnavailable, now: float) -> None:
        job.busy += 1
        pause = _draw_wait(job, error)
        server.busy(now, pause, error.retry_after is not None)
        if pause > LONGEST_WAIT and now >= server.told_until:
            say(f"{server.client.address} asks for a wait of {pause:.0f} s ({error})")
            server.told_until = now + pause
        self._queue.wait(job, now + pause)

    def _refused(self, job: Job, error: LLMRefused) -> None:
        """Park an input whose own request is refused; else the key, the address or the model is at fault: count it."""
        if error.status in REQUEST_FAULTS:
            self.park(job)
            return
        self._refusals_in_row += 1
        if not self.ever_answered or self._refusals_in_row >= HOPELESS_AFTER:
            self.stop(error)
        job.charge()
        self._queue.wait(job, asyncio.get_running_loop().time() + _draw_wait(job, error))

    def _settle_without_answer(self, job: Job, reason: str, detail: str) -> None:
        self._store.park(job.key, reason, detail)
        self._queue.discard(job)
        self._tally.parked += job.times


def _draw_wait(job: Job, error: LLMError) -> float:
    """Draw the seconds until the next try, and count the wait."""
    wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**job.waits))
    job.waits += 1
    asked = error.retry_after if isinstance(error, LLMUnavailable) else None
    return max(wait, asked or 0.0)  # some servers always say 0
