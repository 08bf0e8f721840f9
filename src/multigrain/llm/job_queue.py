"""Queue of the inputs that have no answer yet: taken one by one, and kept while they wait for another try."""

import heapq
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from multigrain.llm.job import Job
from multigrain.llm.ledger import Ledger
from multigrain.llm.prompted_input import Prompted

WAITING = 8
"""Inputs that may wait for another try before no new one is taken, for each request that may be under way."""


class JobQueue:
    """The inputs of one call of `answer_all`, without those that are settled.

    Only the inputs under way and those that wait are in memory.

    Args:
        inputs: taken one by one.
        ledger: its store knows which inputs are settled, and which replies the others have had.
        concurrency: requests that may be under way at once, at all servers together.

    Attributes:
        has_new: whether the inputs have not come to their end.
        failure: the error that ended the inputs early, say a damaged line of a file.
    """

    def __init__(self, inputs: Iterable[Prompted[Any]], ledger: Ledger, concurrency: int) -> None:
        self.has_new = True
        self.failure: Exception | None = None
        self._inputs = iter(inputs)
        self._store, self._tally = ledger.store, ledger.tally
        self._most_waiting = WAITING * concurrency
        self._waiting: list[tuple[float, int, Job]] = []
        """A heap, by the moment of the next try, then by the order of arrival."""
        self._arrivals = count()
        self._jobs: dict[str, Job] = {}
        """The jobs under way or waiting, by key."""
        self._is_first_run = not ledger.budget.spent.calls

    @property
    def is_empty(self) -> bool:
        """Return whether no input waits, and no new one will come."""
        return not self._waiting and not self.has_new

    @property
    def takes_new(self) -> bool:
        """Return whether so few inputs wait that a new one may be taken."""
        return len(self._waiting) < self._most_waiting

    @property
    def next_due(self) -> float | None:
        """Moment of the next try, by the event loop's clock; None if no input waits."""
        return self._waiting[0][0] if self._waiting else None

    def wait(self, job: Job, until: float) -> None:
        """Keep a job for another try at this moment or later."""
        heapq.heappush(self._waiting, (until, next(self._arrivals), job))

    def pop_waiting(self, now: float | None = None) -> Job | None:
        """Take the job that has waited longest.

        Args:
            now: take only a job that is due at this moment.
        """
        if not self._waiting or (now is not None and self._waiting[0][0] > now):
            return None
        return heapq.heappop(self._waiting)[-1]

    def pop_new(self) -> Job | None:
        """Take the next input that is not settled; None after the last."""
        try:
            for prompted in self._inputs:
                if job := self._unsettled(prompted):
                    self._jobs[job.key] = job
                    return job
        except Exception as error:
            self.failure = error
        self.has_new = False
        return None

    def drain(self) -> Iterator[Job]:
        """Take all jobs that wait, then all new ones."""
        waiting = [job for _, _, job in self._waiting]
        self._waiting.clear()
        yield from waiting
        yield from iter(self.pop_new, None)

    def discard(self, job: Job) -> None:
        """Forget a job that is settled."""
        del self._jobs[job.key]

    def _unsettled(self, prompted: Prompted[Any]) -> Job | None:
        """Make a job of an input, as the store knows it; None if there is nothing to do for it."""
        key = prompted.request.key
        if twin := self._jobs.get(key):
            twin.times += 1
            return None
        state, forgiven = self._store.state(key) or ("new", 0)
        if state == "new" and self._is_first_run:
            return Job(prompted, key, prompted.request)
        job = None if state == "batched" else self._recalled(prompted, key, state, forgiven)
        if job and state == "parked" and not job.reopen():
            self._tally.parked += 1
            return None
        return job

    def _recalled(self, prompted: Prompted[Any], key: str, state: str, forgiven: int) -> Job | None:
        """Make a job that remembers its earlier replies; None if one of them can be used."""
        if state == "ok" and (answer := self._store.answer(key)) and prompted.fault_in(answer) is None:
            self._tally.answered += 1
            return None
        job = Job(prompted, key, prompted.request)
        for number, (call, limit, answer) in enumerate(self._store.replies(key), start=1):
            fault = prompted.fault_in(answer)
            if fault is None:  # it came in a batch, or an earlier version could not read it
                self._store.accept(key, call)
                self._tally.answered += 1
                return None
            job.misread(fault, limit)
            if number <= forgiven:
                job.forgive()
        return job
