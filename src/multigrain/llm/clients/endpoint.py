"""Client of any OpenAI-compatible server, over HTTP."""

import asyncio
from functools import cache
from http import HTTPStatus
from typing import Self

from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.clients.http_extras import NO_EXTRAS, HTTPExtras
from multigrain.llm.clients.http_session import HTTPSession
from multigrain.llm.clients.model_list import is_among, names_in
from multigrain.llm.clients.request_body import encode, request_body
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.response_body import read_answer
from multigrain.terminal import say

MODELS_SECONDS, ALIVE_SECONDS = 15.0, 10.0
"""Seconds that a server may take to list its models, at the start and later.

The first is longer than `CONNECT_SECONDS`, so that an absent server is told apart from a slow one.
"""
WITHOUT_LIST = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.TOO_MANY_REQUESTS)
"""Statuses of `/models` that are usual, and not worth a warning."""


class EndpointClient:
    """A client of `/models`, `/completions` and `/chat/completions` below `base_url`.

    Args:
        base_url: such as `https://api.example.com/v1`.
        model: a name that the server knows.
        api_key: sent as a bearer token.
        timeout: seconds that one request may take.
        extras: further headers, and parameters of the address.

    Attributes:
        http: the session, for requests of other kinds; it raises the errors of `complete`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        timeout: float = 120,
        extras: HTTPExtras = NO_EXTRAS,
    ) -> None:
        self.address = base_url.rstrip("/")
        self.model = model
        self.dialect: Dialect | None = None
        self.http = HTTPSession(self.address, api_key, timeout, extras)
        self._lists_models = True

    async def __aenter__(self) -> Self:
        """Open the connection pool, and check that a server is there; warn if it does not list the model."""
        self.http.open()
        try:
            await self._check_model()
        except LLMUnavailable as error:
            await self.__aexit__()
            raise ConfigError("llm.base_url", [f"{error} Is the server running, and llm.base_url right?"]) from None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        await self.http.close()

    async def complete(self, request: Request) -> Answer:
        """See `Client.complete`."""
        body = request_body(request, self.dialect or Dialect())
        reply = await self.http.call("POST", body.path, encode(body.fields))
        try:
            return read_answer(reply)
        except LLMError as error:
            raise self.http.redact_error(error) from None

    async def is_alive(self) -> bool:
        """See `Client.is_alive`: `/models` has to succeed, or to fail in any way where it failed at the start."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self.http.call("GET", "models")
        except LLMRefused:
            return True
        except TimeoutError:
            return not self._lists_models
        except LLMError as error:
            is_busy = error.status == HTTPStatus.TOO_MANY_REQUESTS
            return is_busy or (_has_arrived(error) and not self._lists_models)
        return True

    async def _check_model(self) -> None:
        """Warn if the list of models is refused, or lacks ours; whether the work goes on, the first request decides.

        Raises:
            LLMError: no request reaches the server.
        """
        try:
            async with asyncio.timeout(MODELS_SECONDS):
                listing = await self.http.call("GET", "models")
        except (LLMError, TimeoutError) as error:
            if isinstance(error, LLMError) and not _has_arrived(error):
                raise
            self._lists_models = False
            self._warn_without_list(error)
            return
        names = names_in(listing)
        if names and not is_among(self.model, names):
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            said = f'{self.address}: does not list the model "{self.model}" (llm.model); it lists: {some}.'
            _say_once(f"{said} Going on: the first request decides.")

    def _warn_without_list(self, error: LLMError | TimeoutError) -> None:
        """Warn that there is no list, unless that is usual: many servers have none, or are busy just now."""
        if isinstance(error, LLMError):
            status = error.status or 0
            is_usual = status in WITHOUT_LIST or status >= HTTPStatus.INTERNAL_SERVER_ERROR
            if is_usual or isinstance(error, LLMReplyError):
                return
        said = str(error) or f"{self.address}/models: no answer within {MODELS_SECONDS:g} s."
        _say_once(f"{said} Going on without the list of models: the first request decides.")


def _has_arrived(error: LLMError) -> bool:
    """Return whether the server was reached, whatever became of the request then."""
    return error.status is not None or error.billed


@cache
def _say_once(message: str) -> None:
    """Print a message only once: each stage, and each grade that is repaired, connects anew."""
    say(message)
