"""Send many requests, a bounded number at a time; keep each answer at once; give up on none without a reason."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from multigrain.errors import LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.client import Answer, Client, Request
from multigrain.llm.store import AnswerStore

TRANSPORT_TRIES = 6
REPLY_TRIES = 3
HTTP_BUSY = 429
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds. The n-th wait is drawn from 0 to min(LONGEST_WAIT, FIRST_WAIT * 2**n) (full jitter)."""
DEAD_AFTER = 12
"""Failures in a row, beyond three for each request under way, after which the server is taken for dead. A server
that says it is busy (429) is not dead."""
REFUSED_AFTER = 8
"""Requests refused, without any answered, after which the next ones are not worth sending."""


@dataclass
class Outcome:
    """What came of a batch of requests."""

    answers: dict[str, Answer] = field(default_factory=dict)
    """By request key."""
    parked: dict[str, str] = field(default_factory=dict)
    """Request key -> why there is no answer."""
    sent: int = 0
    """Requests that went out now; the other answers were in the store."""

    @property
    def tokens(self) -> int:
        """Tokens of all answers and their prompts, whenever they were paid for."""
        return sum(answer.prompt_tokens + answer.completion_tokens for answer in self.answers.values())


async def answer_all(
    client: Client,
    requests: Iterable[Request],
    store: AnswerStore,
    concurrency: int = 8,
    max_requests: int | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> Outcome:
    """Answer each distinct request from the store, or else from the client.

    Args:
        client: an entered client.
        requests: what to ask.
        store: holds the answers of earlier runs, and receives the new ones.
        concurrency: requests under way at once.
        max_requests: never send more than this many; the rest is parked.
        on_answer: called after each request that is settled.

    Raises:
        LLMRefused: the key, the address or the model is refused.
        LLMUnavailable: the server is dead; what was answered is in the store.
    """
    outcome = Outcome()
    run = _Run(client, store, outcome, max_requests, on_answer, dead_after=DEAD_AFTER + 3 * concurrency)
    todo = iter({request.key: request for request in requests}.values())
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(run.work(todo))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return outcome


class _Run:
    """One call of `answer_all`: the state that its workers share."""

    def __init__(
        self,
        client: Client,
        store: AnswerStore,
        outcome: Outcome,
        max_requests: int | None,
        on_answer: Callable[[], None],
        dead_after: int,
    ) -> None:
        self.client, self.store, self.outcome = client, store, outcome
        self.max_requests, self.on_answer = max_requests, on_answer
        self.dead_after = dead_after
        self.failures_in_row = 0

    async def work(self, todo: Iterator[Request]) -> None:
        for request in todo:
            answer = self.store.get(request)
            if answer is not None:
                self.outcome.answers[request.key] = answer
            else:
                await self._ask(request)
            self.on_answer()

    async def _ask(self, request: Request) -> None:
        tries = {LLMUnavailable: TRANSPORT_TRIES, LLMReplyError: REPLY_TRIES}
        wait = FIRST_WAIT
        while True:
            if self.max_requests is not None and self.outcome.sent >= self.max_requests:
                self.outcome.parked[request.key] = "llm.max_requests was reached"
                return
            self.outcome.sent += 1
            try:
                answer = await self.client.complete(request)
            except (LLMUnavailable, LLMReplyError) as error:
                self._count_failure(error)
                tries[type(error)] -= 1
                if not tries[type(error)]:
                    self.outcome.parked[request.key] = str(error)
                    return
                await asyncio.sleep(random.uniform(0, wait))
                wait = min(LONGEST_WAIT, wait * 2)
            except LLMRefused as error:
                hopeless = not self.outcome.answers and len(self.outcome.parked) >= REFUSED_AFTER
                if error.status in (401, 403, 404) or hopeless:
                    raise
                self.outcome.parked[request.key] = str(error)
                return
            else:
                self.failures_in_row = 0
                self.store.put(request, answer)
                self.outcome.answers[request.key] = answer
                return

    def _count_failure(self, error: LLMError) -> None:
        if isinstance(error, LLMUnavailable) and error.status != HTTP_BUSY:
            self.failures_in_row += 1
        if self.failures_in_row >= self.dead_after:
            count = self.failures_in_row
            raise LLMUnavailable(f"{error} Gave up after {count} failures in a row; the same command goes on.")
