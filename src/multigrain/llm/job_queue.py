"""Queue of unanswered inputs, which are taken one by one and kept while they wait for a retry."""

import heapq
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from multigrain.llm.job import Job
from multigrain.llm.ledger import Ledger
from multigrain.llm.prompted_input import Prompted

WAITING = 8
"""Inputs that may wait for a retry, per concurrent request; beyond that, no new input is taken."""


class JobQueue:
    """The unsettled inputs of one call of `answer_all`.

    Only inputs that are under way or waiting are in memory.

    Args:
        inputs: taken one by one.
        ledger: its store knows which inputs are settled, and the earlier replies to the others.
        concurrency: requests that may be under way at once, over all servers.

    Attributes:
        has_new: whether more inputs may come.
        failure: the error that ended the inputs early, such as a damaged line in a file.
    """

    def __init__(self, inputs: Iterable[Prompted[Any]], ledger: Ledger, concurrency: int) -> None:
        self.has_new = True
        self.failure: Exception | None = None
        self._inputs = iter(inputs)
        self._store, self._tally = ledger.store, ledger.tally
        self._most_waiting = WAITING * concurrency
        self._waiting: list[tuple[float, int, Job]] = []
        """Heap, ordered by the time of the next try, then by arrival."""
        self._arrivals = count()
        self._jobs: dict[str, Job] = {}
        """The jobs under way or waiting, by key."""
        self._is_first_run = not ledger.budget.spent.calls

    @property
    def is_empty(self) -> bool:
        """Whether no input waits, and no new one will come."""
        return not self._waiting and not self.has_new

    @property
    def takes_new(self) -> bool:
        """Whether few enough inputs wait for a new one to be taken."""
        return len(self._waiting) < self._most_waiting

    @property
    def next_due(self) -> float | None:
        """Time of the next try on the event loop's clock; None if no input waits."""
        return self._waiting[0][0] if self._waiting else None

    def wait(self, job: Job, until: float) -> None:
        """Keep a job for a retry at this time or later."""
        heapq.heappush(self._waiting, (until, next(self._arrivals), job))

    def pop_waiting(self, now: float | None = None) -> Job | None:
        """Take the waiting job that is due first; return None if there is none.

        Args:
            now: take only a job that is due by this time.
        """
        if not self._waiting or (now is not None and self._waiting[0][0] > now):
            return None
        return heapq.heappop(self._waiting)[-1]

    def pop_new(self) -> Job | None:
        """Take the next unsettled input; return None after the last."""
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
        """Take all waiting jobs, then all new ones."""
        waiting = [job for _, _, job in self._waiting]
        self._waiting.clear()
        yield from waiting
        yield from iter(self.pop_new, None)

    def discard(self, job: Job) -> None:
        """Forget a settled job."""
        del self._jobs[job.key]

    def _unsettled(self, prompted: Prompted[Any]) -> Job | None:
        """Make a job from an input and its state in the store; return None if nothing is left to do."""
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
        """Make a job that counts its earlier replies; return None if one of them is usable."""
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
