"""Books every call: in the store before it goes out, in the budget, and in the tally that progress shows."""

from collections import Counter
from dataclasses import dataclass, field

from multigrain.errors import LLMError
from multigrain.llm.budget import Budget, Usage
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.store import AnswerStore


@dataclass
class Tally:
    """How the work stands: what progress shows."""

    answered: int = 0
    parked: int = 0
    under_way: int = 0
    sent: int = 0
    """Requests that went out now; other answers were in the store."""
    spent: Usage = field(default_factory=Usage)
    """By those of these requests that have ended; what is under way may take less than it is booked with."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed calls, by kind."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is on its way."""

    number: int
    bound: Usage


@dataclass
class Ledger:
    """Store, budget and tally of one piece of work.

    Attributes:
        obstacle: the cap that kept the last request from going out, as text.
    """

    store: AnswerStore
    budget: Budget
    tally: Tally = field(default_factory=Tally)
    obstacle: str | None = None

    def begin(self, key: str, request: Request, batch: str | None = None) -> Call | None:
        """Book a request at the most that it may take; None if it might pass a cap, and must not go out.

        It must be committed before it goes out.
        """
        bound = self.budget.bound(request)
        self.obstacle = self.budget.obstacle(bound)
        if self.obstacle:
            return None
        self.budget.spent += bound
        self.tally.sent += 1
        return Call(self.store.begin_call(key, request.max_tokens, bound, batch), bound)

    def end(self, call: Call, answer: Answer) -> None:
        """Keep what came back, and book what it took instead of the bound."""
        usage = self.budget.actual(answer, call.bound)
        self.store.end_call(call.number, answer, usage)
        self._settle(call, usage)

    def fail(self, call: Call, error: LLMError) -> None:
        """Keep why nothing came back; the bound stays booked if the call may have been charged for."""
        usage = call.bound if error.billed else Usage(calls=1)
        self.store.fail_call(call.number, str(error), usage)
        self.count(error)
        self._settle(call, usage)

    def count(self, error: LLMError) -> None:
        """Count an error by its kind."""
        self.tally.errors[f"HTTP {error.status}" if error.status else error.reason] += 1

    def _settle(self, call: Call, usage: Usage) -> None:
        self.budget.spent += usage - call.bound
        self.tally.spent += usage
