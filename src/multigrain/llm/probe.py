"""Probe a server's dialect with a tiny question whose answer has the right form only if the server enforces it.

The answer also shows whether the model reasons first, before the token limits and stop texts of real requests cut it
off.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from multigrain.errors import LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Ledger
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer, Client, Request
from multigrain.terminal import say

KEY = "probe"
"""Store key of probe calls, which serve no input."""
QUESTION = "Name a colour. Answer in JSON."
SCHEMA = {
    "type": "object",
    "properties": {"colour_wanted": {"type": "string"}},
    "required": ["colour_wanted"],
    "additionalProperties": False,
}
"""Schema of the answer.

The question does not name the field, so a server that accepts a schema but ignores it is detected.
"""
FORM_HINT = 'Use this form: {"colour_wanted": "..."}'
UNUSED_STOP = "<<<END>>>"
"""Stop text that ends no answer; a real one, such as a line break, would cut a reasoning model off."""
TRIES = 3
"""Tries in each dialect."""
TOKENS = 1024
"""Smallest token limit of a probe, enough for a reasoning model to answer, or to show that it reasons."""
LONGEST_WAIT = 1.0
"""Longest wait between two tries, in seconds, unless the server asks for more; the wait is drawn from 0 to this."""
PATIENCE, PATIENCE_IF_BUSY = 60.0, 900.0
"""Seconds without an answer after which the probe fails; the second applies if the server says it is busy (429)."""

Send = Callable[[Request, Dialect], Awaitable[Answer]]
"""A function that sends a request in a dialect, and raises as `Client.complete` does."""


async def learn_dialect(client: Client, request: Request, ledger: Ledger) -> Dialect:
    """Set the dialect of a client: the one that the client or the store knows, or else the one that a probe finds.

    Args:
        client: an entered client.
        request: one of the requests that will be sent later.
        ledger: records the probe's calls like any others.

    Returns:
        The dialect.

    Raises:
        LLMRefused, LLMUnavailable: see `find_dialect`.
    """
    if request.kind != "chat" or client.dialect is not None:
        return client.dialect or Dialect()

    def send(asked: Request, dialect: Dialect) -> Awaitable[Answer]:
        return _send(client, ledger, asked, dialect)

    known = ledger.store.dialect(client.address, request.dialect_key)
    dialect = known or await find_dialect(request, send)
    if request.schema is None and dialect.is_reasoning_model is None:
        dialect = await _learn_whether_it_reasons(request, dialect, send)
    if dialect != known and not ledger.obstacle:
        ledger.store.learn(client.address, request.dialect_key, dialect)
    client.dialect = dialect
    return dialect


async def _send(client: Client, ledger: Ledger, request: Request, dialect: Dialect) -> Answer:
    """Send a probe request, within the caps like any other."""
    request = request.suited(dialect)
    call = ledger.begin(KEY, request)
    if call is None:
        raise LLMReplyError(ledger.obstacle or "")
    ledger.store.commit()
    client.dialect = dialect
    try:
        answer = await client.complete(request)
    except LLMError as error:
        ledger.fail(call, error)
        ledger.store.commit()
        raise
    ledger.end(call, answer)
    ledger.store.commit()
    return answer


async def find_dialect(request: Request, send: Send) -> Dialect:
    """Step down from the strictest dialect until an answer has the right form.

    Args:
        request: one of the requests that will be sent later; model and limits are taken from it.
        send: sends the question.

    Returns:
        The dialect; the lowest one if none gave the right form (every answer is validated anyway).

    Raises:
        LLMRefused: the server refuses every dialect.
        LLMUnavailable: the server is busy or unreachable, so its dialect stays unknown.
    """
    dialect = Dialect()
    while True:
        try:
            has_form, dialect = await _try(_ask_for_form(request, dialect), dialect, send)
            if has_form:
                return dialect
            lower = dialect.lower()
        except LLMRefused as refused:
            lower = dialect.without(refused.said or str(refused)) or dialect.lower()
            if lower is None or refused.status not in (400, 422):
                raise
        if lower is None:
            return dialect
        dialect = lower


async def _learn_whether_it_reasons(request: Request, dialect: Dialect, send: Send) -> Dialect:
    """Ask without a schema, because a schema keeps some models from reasoning. A model that never ends reasons.

    If later requests have stop texts, one is sent here too, so that a server that refuses them says so now.
    """
    stop = (UNUSED_STOP,) if request.stop else ()
    free = replace(request, prompt=QUESTION, stop=stop, max_tokens=max(request.max_tokens, TOKENS))
    while True:
        try:
            has_ended, dialect = await _try(Prompted(KEY, free, _accept_any), dialect, send)
            return replace(dialect, is_reasoning_model=dialect.is_reasoning_model or not has_ended)
        except LLMRefused as refused:
            other = dialect.without(refused.said or str(refused))
            if other is None or refused.status not in (400, 422):
                raise
            dialect = other


def _ask_for_form(request: Request, dialect: Dialect) -> Prompted[Any]:
    prompt = QUESTION if dialect.rung == "json_schema" else f"{QUESTION} {FORM_HINT}"
    limit = max(request.max_tokens, TOKENS)
    question = replace(request, prompt=prompt, schema=json.dumps(SCHEMA), stop=(), max_tokens=limit)
    return Prompted(KEY, question, _check_form)


async def _try(prompted: Prompted[Any], dialect: Dialect, send: Send) -> tuple[bool, Dialect]:
    """Ask until an answer can be read, in at most `TRIES` tries; an error 500 counts as a bad answer.

    Returns:
        Whether an answer could be read, and the dialect, updated if an answer showed reasoning.

    Raises:
        LLMRefused: the server refuses the request in this dialect.
        LLMUnavailable: the server stayed busy or unreachable.
    """
    probe = prompted.request
    started = asyncio.get_running_loop().time()
    tries = 0
    while tries < TRIES:
        try:
            answer = await send(replace(probe, seed=probe.seed + tries), dialect)
            if prompted.shows_reasoning(answer):
                dialect = replace(dialect, is_reasoning_model=True)
            prompted.read(answer)
            return True, dialect
        except LLMReplyError:
            tries += 1
        except LLMUnavailable as error:
            tries += error.status == HTTPStatus.INTERNAL_SERVER_ERROR
            waited = asyncio.get_running_loop().time() - started
            patience = PATIENCE_IF_BUSY if error.status == HTTPStatus.TOO_MANY_REQUESTS else PATIENCE
            if waited > patience:
                said = f"{error} No answer for {patience:g} s. Once the server is back, run the same command to resume."
                raise LLMUnavailable(said, error.status) from None
            await _pause(error)
    return False, dialect


async def _pause(error: LLMUnavailable) -> None:
    pause = max(random.uniform(0, LONGEST_WAIT), error.retry_after or 0.0)
    if pause > LONGEST_WAIT:
        say(f"the server asks for a wait of {pause:.0f} s ({error})")
    await asyncio.sleep(pause)


def _accept_any(_answer: Answer) -> None:
    """Accept any answer that was not truncated."""


def _check_form(answer: Answer) -> None:
    try:
        value = json.loads(answer.text)
    except (ValueError, RecursionError):
        raise LLMReplyError("not JSON") from None
    if not (isinstance(value, dict) and isinstance(value.get("colour_wanted"), str)):
        raise LLMReplyError("not of the right form")
