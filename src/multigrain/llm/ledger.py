"""Record every call: in the store before it is sent, in the budget, and in the tally that progress shows."""

from collections import Counter
from dataclasses import dataclass, field

from multigrain.errors import LLMError
from multigrain.llm.budget import Budget, Usage
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.store import AnswerStore


@dataclass
class Tally:
    """Counts shown as progress.

    Attributes:
        answered: inputs with an answer, from the store or a call.
        parked: inputs left without an answer.
        under_way: requests sent and not yet answered.
        sent: requests sent by this command; other answers were in the store.
        spent: usage of the sent requests that have ended; requests under way may use less than their bounds.
        errors: failed calls and unusable answers, by kind.
    """

    answered: int = 0
    parked: int = 0
    under_way: int = 0
    sent: int = 0
    spent: Usage = field(default_factory=Usage)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Call:
    """A request under way: its number in the store, and an upper bound of its usage."""

    number: int
    bound: Usage


@dataclass
class Ledger:
    """Store, budget and tally of one `answer_all`.

    Attributes:
        obstacle: message naming the cap that blocked the last request; None if it was sent.
    """

    store: AnswerStore
    budget: Budget
    tally: Tally = field(default_factory=Tally)
    obstacle: str | None = None

    def begin(self, key: str, request: Request, batch: str | None = None) -> Call | None:
        """Record a request with the upper bound of its usage. Commit the store before the request is sent.

        Returns:
            The call; None if the request might exceed a cap and must not be sent.
        """
        bound = self.budget.bound(request)
        self.obstacle = self.budget.obstacle(bound)
        if self.obstacle:
            return None
        self.budget.spent += bound
        self.tally.sent += 1
        return Call(self.store.begin_call(key, request.max_tokens, bound, batch), bound)

    def end(self, call: Call, answer: Answer) -> None:
        """Store an answer, and replace the bound by its usage."""
        usage = self.budget.actual(answer, call.bound)
        self.store.end_call(call.number, answer, usage)
        self._settle(call, usage)

    def fail(self, call: Call, error: LLMError) -> None:
        """Store the error of an unanswered call; its bound still counts if the call may have been charged."""
        usage = call.bound if error.billed else Usage(calls=1)
        self.store.fail_call(call.number, str(error), usage)
        self.count(error)
        self._settle(call, usage)

    def book(self, key: str, bound: Usage, outcome: Answer | LLMError, batch: str) -> None:
        """Record a call that was made elsewhere, and has ended; it is paid for, whatever the caps say.

        Args:
            key: the key of its request.
            bound: an upper bound of its usage, for what the answer does not report; its completion tokens are the
                token limit of the request.
            outcome: the answer, or the error.
            batch: name under which the store keeps the call.
        """
        call = Call(self.store.begin_call(key, bound.completion_tokens, bound, batch), bound)
        self.budget.spent += bound
        if isinstance(outcome, LLMError):
            self.fail(call, outcome)
        else:
            self.end(call, outcome)

    def count(self, error: LLMError) -> None:
        """Count an error by its kind."""
        self.tally.errors[f"HTTP {error.status}" if error.status else error.reason] += 1

    def _settle(self, call: Call, usage: Usage) -> None:
        self.budget.spent += usage - call.bound
        self.tally.spent += usage
