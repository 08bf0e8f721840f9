"""An unanswered input: how often it was tried, and the request to send next."""

from dataclasses import dataclass, replace
from typing import Any

from multigrain.errors import LLMDeclined, LLMError, LLMReplyError, LLMTruncated
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Request

TRANSPORT_TRIES = 8
"""Unanswered calls after which an input is parked, if its server answers other inputs meanwhile."""
REPLY_TRIES = 4
"""Unreadable answers after which an input is parked."""
CUT_TRIES = 3
"""Answers truncated at the token limit after which an input is parked; each limit is twice the one before."""
BUSY_TRIES = 100
"""Calls rejected by a busy server (429) after which an input is parked."""
NEW_SEED = 1_000_003
"""Step between the seeds of successive tries of one input."""


@dataclass
class Job:
    """An input that has no answer yet.

    Attributes:
        prompted: the input, with its own request.
        key: the key of that request.
        request: the request to send next; after bad answers, it has another seed or a larger token limit.
        replies: number of unusable answers, for any reason.
        bad: unusable answers that cannot be read, or decline.
        cut: unusable answers that were truncated at the token limit.
        longest: largest token limit at which an answer was truncated.
        declined: whether the model declined to answer.
        busy: calls rejected by a busy server.
        waits: waits so far, which set the range of the next one.
        charged: unanswered calls that count against the input, not its server.
        error: the last error.
        times: how often the identical input was requested.
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
        """Whether the input may be sent once more."""
        may_call = self.charged < TRANSPORT_TRIES and self.busy < BUSY_TRIES
        may_answer = self.bad < REPLY_TRIES and self.cut < CUT_TRIES and not self.declined
        return may_call and may_answer

    def charge(self) -> None:
        """Count an unanswered call against the input."""
        self.charged += 1

    def misread(self, error: LLMReplyError, limit: int) -> None:
        """Count an unusable answer, and prepare the next try.

        Args:
            error: what is wrong with the answer.
            limit: the answer's token limit.
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
        """Give the input its full number of answer tries again."""
        self.bad = self.cut = 0
        self.declined = False

    def reopen(self) -> bool:
        """Prepare a parked input for another try if its answers were truncated and the limit has been raised since.

        Returns:
            Whether it is to be tried again.
        """
        if not isinstance(self.error, LLMTruncated) or self.prompted.request.max_tokens <= self.longest:
            return False
        self.request = self.prompted.request
        self.forgive()
        return True
