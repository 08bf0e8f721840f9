"""Read answers from response bodies: OpenAI's form, and the variants that servers use."""

import json
import re
from collections.abc import Iterator
from typing import Any

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import TOOL_CALLS, Answer
from multigrain.records import encodable

MOST_TOKENS = 10**9
"""Largest credible token count of one answer; a larger count from a server is ignored."""
TOOL_FIELDS = ("tool_calls", "function_call")
"""Message fields that hold a tool call."""
END = "[DONE]"
"""Last event of a stream."""
CUT = {"max_tokens", "model_length", "max_output_tokens"}
"""Finish reasons that some servers use instead of `length`."""
REASONING_FIELDS = ("reasoning", "reasoning_content", "thinking", "reasoning_details")
"""Fields and part types of a message that hold reasoning, not the answer."""


def json_in(body: bytes) -> Any:
    """Parse a body as JSON; server-sent events, which some servers send unasked, are joined into one value.

    Raises:
        ValueError, RecursionError: the body is neither JSON nor such events.
        LLMReplyError: the events break off.
    """
    if re.match(rb"\s*(?:data|event|id|retry)?:", body):
        return _joined(_events(body.decode("utf-8", "replace")))
    return json.loads(body)


def _events(text: str) -> Iterator[Any]:
    for event in text.replace("\r\n", "\n").split("\n\n"):
        # Not splitlines: JSON may contain other line separators.
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
    """Join the parts of a streamed answer; an error among them is returned instead."""
    text, has_reasoning = "", False
    last: dict[str, Any] = {}
    """The last value of each field."""
    for event in events:
        if event == END:
            last.setdefault("finish_reason", "stop")
            break
        if not isinstance(event, dict) or event.get("error"):
            return event
        choice = _first(event.get("choices"))
        part = next((choice[name] for name in ("delta", "message") if isinstance(choice.get(name), dict)), choice)
        text += _text(part.get("content") or part.get("text"))
        has_reasoning |= _has_reasoning(part)
        last |= {key: value for key, value in {**event, **choice, **part}.items() if value is not None}
    if "finish_reason" not in last:
        raise LLMReplyError(f"the stream of events breaks off after: {text[-80:]!r}", billed=True)
    message = {"content": text, "reasoning": has_reasoning, "refusal": last.get("refusal")}
    message |= {name: last.get(name) for name in TOOL_FIELDS}
    return {"choices": [{"message": message, "finish_reason": last["finish_reason"]}], "usage": last.get("usage")}


def _first(choices: Any) -> dict[str, Any]:
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def read_answer(reply: Any) -> Answer:
    """Read the answer from a response's JSON value.

    Raises:
        LLMReplyError: it holds no answer.
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
        has_reasoning=_has_reasoning(message) or _has_hidden_reasoning(usage),
    )


def _text(content: Any) -> str:
    """Return a content's text, joined if it comes in parts; parts of other types are not part of the answer."""
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


def _has_reasoning(message: dict[str, Any]) -> bool:
    kinds = [part.get("type") for part in _parts(message.get("content")) if isinstance(part, dict)]
    return any(message.get(name) for name in REASONING_FIELDS) or any(kind in REASONING_FIELDS for kind in kinds)


def _has_hidden_reasoning(usage: dict[str, Any]) -> bool:
    details = usage.get("completion_tokens_details")
    return isinstance(details, dict) and bool(_count(details.get("reasoning_tokens")))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < MOST_TOKENS else None
