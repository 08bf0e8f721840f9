"""An input on its way to an answer: how often it was tried, and the request that is sent next."""

from dataclasses import dataclass, replace
from typing import Any

from multigrain.errors import LLMDeclined, LLMError, LLMReplyError, LLMTruncated
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Request

TRANSPORT_TRIES = 8
"""Calls of one input without an answer, while its server answers others, after which it is parked."""
REPLY_TRIES = 4
"""Answers to one input that cannot be read after which it is parked."""
CUT_TRIES = 3
"""Answers to one input that were cut after which it is parked; each limit is twice the one before."""
BUSY_TRIES = 100
"""Calls of one input that met a busy server (429) after which it is parked."""
NEW_SEED = 1_000_003
"""Step between the seeds of successive tries of one input."""


@dataclass
class Job:
    """An input that has no answer yet.

    Attributes:
        prompted: the input, with its own request.
        key: of that request.
        request: the one that is sent next: after bad answers, with another seed or a larger token limit.
        replies: answers that could not be used, for whatever reason.
        bad: those among them that cannot be read, or decline.
        cut: those among them that were cut at the token limit.
        longest: the largest limit under which an answer was cut, in tokens.
        declined: whether the model declined to answer.
        busy: calls that met a busy server.
        waits: waits between two tries, from which the next wait is drawn.
        charged: calls without an answer that are counted against the input, not its server.
        error: the last one.
        times: how often the very same input is asked for.
    """

    prompted: Prompted[Any]
    key: str
    request: Request
    replies: int = 0
    bad: int = 0
    cut: int = 0
    longest: int = 0
    declined: bool = False
    busy: int = 0
    waits: int = 0
    charged: int = 0
    error: LLMError | None = None
    times: int = 1

    @property
    def has_try(self) -> bool:
        """Return whether the input may be sent once more."""
        may_call = self.charged < TRANSPORT_TRIES and self.busy < BUSY_TRIES
        may_answer = self.bad < REPLY_TRIES and self.cut < CUT_TRIES and not self.declined
        return may_call and may_answer

    def charge(self) -> None:
        """Count a call without an answer against the input."""
        self.charged += 1

    def misread(self, error: LLMReplyError, limit: int) -> None:
        """Count an answer that cannot be used, and prepare the next try.

        Args:
            error: what is wrong with the answer.
            limit: tokens that the answer was allowed to have.
        """
        self.error = error
        self.replies += 1
        if isinstance(error, LLMTruncated):
            self.cut += 1
            self.longest = max(self.longest, limit)
            self.request = replace(self.request, max_tokens=max(self.request.max_tokens, 2 * limit))
        else:
            self.declined |= isinstance(error, LLMDeclined)
            self.bad += 1
            self.request = replace(self.request, seed=self.prompted.request.seed + self.replies * NEW_SEED)

    def forgive(self) -> None:
        """Give the input all tries for an answer back."""
        self.bad = self.cut = 0
        self.declined = False

    def reopen(self) -> bool:
        """Prepare a parked input for another try if its answers were cut and the limit has been raised since.

        Returns:
            Whether it is to be tried again.
        """
        if not isinstance(self.error, LLMTruncated) or self.prompted.request.max_tokens <= self.longest:
            return False
        self.request = self.prompted.request
        self.forgive()
        return True
