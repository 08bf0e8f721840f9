"""An input with its request, and the parsing of its answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from multigrain.errors import LLMDeclined, LLMReplyError, LLMTruncated
from multigrain.llm import reasoning
from multigrain.llm.protocol import TOOL_CALLS, Answer, Request
from multigrain.llm.store import AnswerStore

R = TypeVar("R")
UNSETTLED = "unsettled"
"""Reason for an input that is neither answered nor parked."""


@dataclass(frozen=True, slots=True)
class Parked:
    """An input left without an answer, and the reason."""

    input: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Prompted(Generic[R]):
    """An input (a pair, a passage, a field), the request about it, and the parser of its answer.

    Args:
        input: the id of the input.
        request: the request to the language model.
        parse: turns an answer, without its reasoning, into records; raises LLMReplyError if the answer is unusable.
    """

    input: str
    request: Request
    parse: Callable[[Answer], R]

    def outcome(self, store: AnswerStore) -> "R | Parked":
        """Return the records of the answer in the store, or the reason why there is none."""
        answer = store.answer(self.request.key)
        if answer is None:
            reason, detail = store.parked(self.request.key) or (UNSETTLED, "not asked yet")
            return Parked(self.input, reason, detail)
        try:
            return self.read(answer)
        except LLMReplyError as error:  # an earlier version could read it
            return Parked(self.input, error.reason, str(error))

    def read(self, answer: Answer) -> R:
        """Turn an answer into records.

        Raises:
            LLMTruncated: the answer was truncated. Only a raw completion may be truncated: it is still a passage.
            LLMReplyError: the answer is unusable.
        """
        is_raw = self.request.kind == "completion"
        text = reasoning.answer_in(answer.text, is_raw)
        if text is None:
            raise LLMTruncated("the answer was truncated while the model was still reasoning (synthesis.answer_tokens)")
        if answer.finish_reason == "length" and not (is_raw and text.strip()):
            raise LLMTruncated("the answer was truncated at its token limit (synthesis.answer_tokens)")
        for stop in self.request.stop:  # some servers are not sent them, or ignore them
            text = text.lstrip().partition(stop)[0]
        text = reasoning.unmarked(text)
        try:
            return self.parse(replace(answer, text=text))
        except LLMReplyError:
            if text.strip():
                raise
            raise LLMReplyError(self._why_empty(answer)) from None

    def _why_empty(self, answer: Answer) -> str:
        if answer.finish_reason in TOOL_CALLS:
            return (
                "the answer is empty: the model called a tool instead. Offer no tools, or set "
                'llm.extra_body = {tool_choice = "none"}'
            )
        if answer.has_reasoning or reasoning.has_reasoning(answer.text, self.request.kind == "completion"):
            return (
                "the answer is empty: the model wrote only reasoning. Switch reasoning off with llm.extra_body "
                "(such as {chat_template_kwargs = {enable_thinking = false}}), or check that the "
                "server's reasoning parser fits the model"
            )
        return "the answer is empty: the model wrote nothing"

    def fault_in(self, answer: Answer) -> LLMReplyError | None:
        """Return the error that describes what is wrong with an answer; None if it is usable."""
        if answer.finish_reason == "content_filter":
            return LLMDeclined(f"the model declined to answer: {answer.text[:200]}")
        try:
            self.read(answer)
        except LLMReplyError as error:
            return error
        return None

    def shows_reasoning(self, answer: Answer) -> bool:
        """Return whether the model reasoned before it answered, or was truncated before it wrote anything."""
        is_raw = self.request.kind == "completion"
        is_silent = not is_raw and answer.finish_reason == "length" and not answer.text.strip()
        return answer.has_reasoning or is_silent or reasoning.has_reasoning(answer.text, is_raw)
