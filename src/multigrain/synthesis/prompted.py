"""An input for the language model, and what becomes of its answer."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Ask
from multigrain.llm.store import AnswerStore

R = TypeVar("R")


def choose(inputs: Iterable[R], count: int, limit: int | None, seed: int) -> Iterator[R]:
    """A seeded sample of at most `limit` of the `count` inputs, in their old order; a larger one holds all of it."""
    if limit is None or limit >= count:
        yield from inputs
        return
    order = list(range(count))
    random.Random(seed).shuffle(order)
    chosen = set(order[:limit])
    yield from (item for index, item in enumerate(inputs) if index in chosen)


@dataclass(frozen=True, slots=True)
class Parked:
    """An input that stays without an answer, and why."""

    input: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Task(Generic[R]):
    """One request about one input (a pair, a passage, a field), and the records that its answer becomes."""

    input: str
    ask: Ask
    make: Callable[[Any], list[R]]

    def outcome(self, store: AnswerStore) -> list[R] | Parked:
        """What came of it: the records, or why there are none."""
        request = self.ask.request
        answer = store.answer(request.key)
        if answer is None:
            reason, detail = store.parked(request.key) or ("unsettled", "nobody has asked yet")
            return Parked(self.input, reason, detail)
        try:
            return self.make(self.ask.read(answer))
        except LLMReplyError as error:  # an earlier version could read it
            return Parked(self.input, error.reason, str(error))
