"""Find out how a server is spoken to: a tiny question whose answer has the right form only if it was held to it.

The answer also shows whether the model thinks first, before a limit or a stop text made for short answers cuts it.
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
"""Under which calls that serve no input are booked."""
QUESTION = "Name a colour. Answer in JSON."
SCHEMA = {
    "type": "object",
    "properties": {"colour_wanted": {"type": "string"}},
    "required": ["colour_wanted"],
    "additionalProperties": False,
}
"""The question does not name the field, so a server that takes a schema and ignores it gives itself away."""
SHAPE = 'Use this form: {"colour_wanted": "..."}'
UNUSED_STOP = "<<<END>>>"
"""Stops no answer: a real stop text, such as the end of a line, would cut short a model that thinks."""
TRIES = 3
"""For each dialect."""
TOKENS = 1024
"""At least: a model that thinks has to come to its answer, or to show that it does."""
LONGEST_WAIT = 1.0
PATIENCE, PATIENCE_IF_BUSY = 60.0, 900.0
"""Seconds without an answer; the second, where the server at least says that it is busy."""

Send = Callable[[Request, Dialect], Awaitable[Answer]]


async def learn_dialect(client: Client, request: Request, ledger: Ledger) -> Dialect:
    """How an entered client's server is spoken to: as it or the store knows, or as a probe finds out.

    Args:
        client: its `dialect` is set.
        request: one of those that will be sent later.
        ledger: the probe's calls are booked like any others.

    Raises:
        LLMRefused, LLMUnavailable: see `find_dialect`.
    """
    if request.kind != "chat" or client.dialect is not None:
        return client.dialect or Dialect()

    def send(asked: Request, dialect: Dialect) -> Awaitable[Answer]:
        return _send(client, ledger, asked, dialect)

    known = ledger.store.dialect(client.address, request.asked_of)
    dialect = known or await find_dialect(request, send)
    if request.schema is None and dialect.thinks is None:
        dialect = await _see_whether_it_thinks(request, dialect, send)
    if dialect != known and not ledger.obstacle:
        ledger.store.learn(client.address, request.asked_of, dialect)
    client.dialect = dialect
    return dialect


async def _send(client: Client, ledger: Ledger, request: Request, dialect: Dialect) -> Answer:
    """One call that serves no input, within the caps like any other."""
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
    """Climb down from the strictest dialect until an answer has the right form.

    Args:
        request: one of those that will be sent later; model and limits are taken from it.
        send: sends a request in a dialect; raises as `Client.complete` does.

    Returns:
        The dialect; the lowest one if none brought the right form (every answer is validated anyway).

    Raises:
        LLMRefused: the server refuses whatever is tried.
        LLMUnavailable: it is busy or away, which says nothing about what it understands.
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


async def _see_whether_it_thinks(request: Request, dialect: Dialect, send: Send) -> Dialect:
    """A schema keeps some models from it, so they are asked without one. Who never comes to an end thinks.

    A stop text goes along where one will later, so that a server that takes none says so.
    """
    stop = (UNUSED_STOP,) if request.stop else ()
    free = replace(request, prompt=QUESTION, stop=stop, max_tokens=max(request.max_tokens, TOKENS))
    while True:
        try:
            has_ended, dialect = await _try(Prompted(KEY, free, lambda _: []), dialect, send)
            return replace(dialect, thinks=dialect.thinks or not has_ended)
        except LLMRefused as refused:
            other = dialect.without(refused.said or str(refused))
            if other is None or refused.status not in (400, 422):
                raise
            dialect = other


def _ask_for_form(request: Request, dialect: Dialect) -> Prompted[Any]:
    prompt = QUESTION if dialect.rung == "json_schema" else f"{QUESTION} {SHAPE}"
    limit = max(request.max_tokens, TOKENS)
    return Prompted(
        KEY, replace(request, prompt=prompt, schema=json.dumps(SCHEMA), stop=(), max_tokens=limit), _check_form
    )


async def _try(prompted: Prompted[Any], dialect: Dialect, send: Send) -> tuple[bool, Dialect]:
    """Whether an answer can be read, in at most `TRIES` tries; an error 500 is a bad answer too.

    Returns:
        That, and the dialect with what else the answers showed: whether the model thinks.

    Raises:
        LLMRefused: the server refuses the request in this dialect.
        LLMUnavailable: it stayed busy or away.
    """
    probe = prompted.request
    started = asyncio.get_running_loop().time()
    tries = 0
    while tries < TRIES:
        try:
            answer = await send(replace(probe, seed=probe.seed + tries), dialect)
            dialect = replace(dialect, thinks=prompted.shows_reasoning(answer) or dialect.thinks)
            prompted.read(answer)
            return True, dialect
        except LLMReplyError:
            tries += 1
        except LLMUnavailable as error:
            tries += error.status == HTTPStatus.INTERNAL_SERVER_ERROR
            waited = asyncio.get_running_loop().time() - started
            patience = PATIENCE_IF_BUSY if error.status == HTTPStatus.TOO_MANY_REQUESTS else PATIENCE
            if waited > patience:
                said = f"{error} No answer for {patience:g} s; once it is mended, the same command goes on."
                raise LLMUnavailable(said, error.status) from None
            await _pause(error)
    return False, dialect


async def _pause(error: LLMUnavailable) -> None:
    pause = max(random.uniform(0, LONGEST_WAIT), error.retry_after or 0.0)
    if pause > LONGEST_WAIT:
        say(f"the server asks to wait {pause:.0f} s ({error})")
    await asyncio.sleep(pause)


def _check_form(answer: Answer) -> None:
    try:
        value = json.loads(answer.text)
    except (ValueError, RecursionError):
        raise LLMReplyError("not JSON") from None
    if not (isinstance(value, dict) and isinstance(value.get("colour_wanted"), str)):
        raise LLMReplyError("not of the right form")
