"""From the body of a response to an answer: OpenAI's form, and what servers have made of it."""

import json
import re
from collections.abc import Iterator
from typing import Any

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import TOOL_CALLS, Answer
from multigrain.records import encodable

MOST_TOKENS = 10**9
"""A server that counts more in one answer does not count."""
TOOL_FIELDS = ("tool_calls", "function_call")
"""Fields of a message that calls a tool."""
END = "[DONE]"
"""The last event of a stream."""
CUT = {"max_tokens", "model_length", "max_output_tokens"}
"""What some servers say for `length`."""
THOUGHTS = ("reasoning", "reasoning_content", "thinking", "reasoning_details")
"""Fields of a message that are no answer."""


def json_in(body: bytes) -> Any:
    """The JSON value of a body; server-sent events, which some send unasked, are put together to one.

    Raises:
        ValueError, RecursionError: it is neither.
        LLMReplyError: the events break off.
    """
    if re.match(rb"\s*(?:data|event|id|retry)?:", body):
        return _joined(_events(body.decode("utf-8", "replace")))
    return json.loads(body)


def _events(text: str) -> Iterator[Any]:
    for event in text.replace("\r\n", "\n").split("\n\n"):
        # Not splitlines: JSON may hold other line ends.
        lines = [line[5:].strip() for line in event.split("\n") if line.startswith("data:")]
        lines = [line for line in lines if line]
        try:
            values = [_value("\n".join(lines))] if lines else []
        except ValueError:  # some servers leave no empty line between events
            values = [_value(line) for line in lines]
        yield from values


def _value(data: str) -> Any:
    return END if data == END else json.loads(data)


def _joined(events: Iterator[Any]) -> Any:
    """The answer whose parts these are; an error among them stands for the whole."""
    text, thoughts, last = "", False, dict[str, Any]()
    for event in events:
        if event == END:
            last.setdefault("finish_reason", "stop")
            break
        if not isinstance(event, dict) or event.get("error"):
            return event
        choice = _first(event.get("choices"))
        part = next((choice[name] for name in ("delta", "message") if isinstance(choice.get(name), dict)), choice)
        text += _text(part.get("content") or part.get("text"))
        thoughts |= _has_thoughts(part)
        last |= {key: value for key, value in {**event, **choice, **part}.items() if value is not None}
    if "finish_reason" not in last:
        raise LLMReplyError(f"the stream of events breaks off after: {text[-80:]!r}", billed=True)
    message = {"content": text, "reasoning": thoughts, "refusal": last.get("refusal")}
    message |= {name: last.get(name) for name in TOOL_FIELDS}
    return {"choices": [{"message": message, "finish_reason": last["finish_reason"]}], "usage": last.get("usage")}


def _first(choices: Any) -> dict[str, Any]:
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def read_answer(reply: Any) -> Answer:
    """The answer in the body of a response.

    Raises:
        LLMReplyError: there is none.
    """
    try:
        choice, usage = reply["choices"][0], reply.get("usage")
        message = choice.get("message")
        if not isinstance(message, dict):
            message = {"content": choice["text"]}
        finish_reason = str(choice.get("finish_reason") or "stop")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise LLMReplyError(f"not an OpenAI-style answer: {json.dumps(reply)[:120]}", billed=True) from None
    usage = usage if isinstance(usage, dict) else {}
    text = _text(message.get("content"))
    if refusal := _refusal(message):
        finish_reason, text = "content_filter", refusal
    if finish_reason.lower() in CUT:
        finish_reason = "length"
    if not text and any(message.get(name) for name in TOOL_FIELDS):
        finish_reason = TOOL_CALLS[0]
    return Answer(
        text=encodable(text),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        finish_reason=encodable(finish_reason),
        has_thoughts=_has_thoughts(message) or _has_hidden_thoughts(usage),
    )


def _text(content: Any) -> str:
    """A text, or the texts of one part or of a list of them; parts of another type are no answer."""
    return content if isinstance(content, str) else "".join(_part(part) for part in _parts(content))


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _part(part: Any) -> str:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in ("text", "output_text") else None
    if isinstance(part, dict):  # as OpenAI's assistants write it
        part = part.get("value")
    return part if isinstance(part, str) else ""


def _refusal(message: dict[str, Any]) -> str | None:
    said = [part.get("refusal") for part in _parts(message.get("content")) if isinstance(part, dict)]
    return next((text for text in (message.get("refusal"), *said) if isinstance(text, str) and text), None)


def _has_thoughts(message: dict[str, Any]) -> bool:
    kinds = [part.get("type") for part in _parts(message.get("content")) if isinstance(part, dict)]
    return any(message.get(name) for name in THOUGHTS) or any(kind in THOUGHTS for kind in kinds)


def _has_hidden_thoughts(usage: dict[str, Any]) -> bool:
    details = usage.get("completion_tokens_details")
    return isinstance(details, dict) and bool(_count(details.get("reasoning_tokens")))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < MOST_TOKENS else None
