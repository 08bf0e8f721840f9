"""Find out how a server is spoken to: a tiny question whose answer has the right form only if it was held to it."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from multigrain.errors import LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.client import Answer, Request
from multigrain.llm.dialect import Dialect

QUESTION = "Name a colour. Answer in JSON."
SCHEMA = {
    "type": "object",
    "properties": {"colour_wanted": {"type": "string"}},
    "required": ["colour_wanted"],
    "additionalProperties": False,
}
"""The question does not name the field, so a server that takes a schema and ignores it gives itself away."""
SHAPE = 'Use this form: {"colour_wanted": "..."}'
TRIES = 3
"""For each dialect."""
LONGEST_WAIT = 1.0

Send = Callable[[Request, Dialect], Awaitable[Answer]]


async def find_dialect(request: Request, send: Send) -> Dialect:
    """Climb down from the strictest dialect until an answer has the right form.

    Args:
        request: one of those that will be sent later; model and limits are taken from it.
        send: sends a request in a dialect; raises as `Client.complete` does.

    Returns:
        The dialect; the lowest one if none brought the right form (every answer is validated anyway).

    Raises:
        LLMRefused: the server refuses whatever is tried.
        LLMUnavailable: it did not answer, and not on the lowest rung either.
    """
    dialect = Dialect()
    while True:
        try:
            if await _has_form(request, dialect, send):
                return dialect
            lower = dialect.lower()
        except LLMRefused as refused:
            lower = dialect.without(str(refused)) or dialect.lower()
            if lower is None or refused.status not in (400, 422):
                raise
        except LLMUnavailable:
            lower = dialect.lower()
            if lower is None:
                raise
        if lower is None:
            return dialect
        dialect = lower


async def _has_form(request: Request, dialect: Dialect, send: Send) -> bool:
    """Whether an answer has the right form, in at most `TRIES` tries.

    Raises:
        LLMRefused: the server refuses the request in this dialect.
        LLMUnavailable: it never answered.
    """
    prompt = QUESTION if dialect.rung == "json_schema" else f"{QUESTION} {SHAPE}"
    probe = replace(request, prompt=prompt, schema=json.dumps(SCHEMA), stop=())
    unavailable: LLMUnavailable | None = None
    replies = 0
    for number in range(TRIES):
        try:
            answer = await send(replace(probe, seed=probe.seed + number), dialect)
            replies += 1
            if _is_form(answer.text):
                return True
        except LLMReplyError:
            replies += 1
        except LLMUnavailable as error:
            unavailable = error
            await asyncio.sleep(random.uniform(0, LONGEST_WAIT) if error.retry_after is None else error.retry_after)
    if unavailable and not replies:
        raise unavailable
    return False


def _is_form(text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("colour_wanted"), str)
