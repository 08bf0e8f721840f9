"""An input on its way to an answer: how often it was tried, and how it is asked next."""

from dataclasses import dataclass, replace
from typing import Any

from multigrain.errors import LLMDeclined, LLMError, LLMReplyError, LLMTruncated
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Request

TRANSPORT_TRIES = 8
REPLY_TRIES = 4
CUT_TRIES = 3
"""Each with twice the limit of the one before."""
BUSY_TRIES = 100
NEW_SEED = 1_000_003
"""Step between the seeds of the tries of one input."""


@dataclass
class Job:
    """An input that has no answer yet."""

    prompted: Prompted[Any]
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
    times: int = 1
    """How often the very same input is asked for."""

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
            self.request = replace(self.request, seed=self.prompted.request.seed + self.replies * NEW_SEED)

    def forgive(self) -> None:
        """All tries are its again."""
        self.bad = self.cut = 0
        self.declined = False

    def reopen(self) -> bool:
        """Whether a parked input is to be asked again: its answers were cut, and the limit has been raised since."""
        if not isinstance(self.error, LLMTruncated) or self.prompted.request.max_tokens <= self.longest:
            return False
        self.request = self.prompted.request
        self.forgive()
        return True
