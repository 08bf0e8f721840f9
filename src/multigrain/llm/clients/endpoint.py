"""HTTP client for any OpenAI-compatible server."""

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

The first is longer than `CONNECT_SECONDS`, to tell an absent server from a slow one.
"""
WITHOUT_LIST = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.TOO_MANY_REQUESTS)
"""Statuses of `/models` that are common and not worth a warning."""


class EndpointClient:
    """A client of `/models`, `/completions` and `/chat/completions` below `base_url`.

    Args:
        base_url: such as `https://api.example.com/v1`.
        model: the model's name at the server.
        api_key: sent as a bearer token.
        timeout: time limit of one request, in seconds.
        extras: additional headers and URL parameters.

    Attributes:
        http: the session, for other kinds of request; it raises the same errors as `complete`.
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
        """Open the connection pool, and check that a server answers; warn if it does not list the model."""
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
        """See `Client.is_alive`: `/models` must succeed, or may fail in any way if it failed at the start."""
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
        """Warn if the list of models is refused or lacks the model; only the first request shows whether it works.

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
            _say_once(f"{said} Continuing: the first request will show whether it works.")

    def _warn_without_list(self, error: LLMError | TimeoutError) -> None:
        """Warn that there is no list, unless that is common: many servers have none, or are busy."""
        if isinstance(error, LLMError):
            status = error.status or 0
            is_usual = status in WITHOUT_LIST or status >= HTTPStatus.INTERNAL_SERVER_ERROR
            if is_usual or isinstance(error, LLMReplyError):
                return
        said = str(error) or f"{self.address}/models: no answer within {MODELS_SECONDS:g} s."
        _say_once(f"{said} Continuing without the list of models.")


def _has_arrived(error: LLMError) -> bool:
    """Return whether the server was reached, whatever happened to the request."""
    return error.status is not None or error.billed


@cache
def _say_once(message: str) -> None:
    """Print a message only once, because each stage, and each repair of a grade, connects anew."""
    say(message)
