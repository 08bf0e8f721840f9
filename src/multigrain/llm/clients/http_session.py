"""HTTP requests below one address, with key and proxy; every failure is raised as an `LLMError`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict

from multigrain.errors import LLMError, LLMReplyError
from multigrain.llm.clients.http_errors import connection_error, refusal
from multigrain.llm.clients.http_extras import HTTPExtras
from multigrain.llm.clients.proxy import proxy_for
from multigrain.llm.clients.redaction import Redactor
from multigrain.llm.response_body import json_in

CONNECT_SECONDS = 10.0
"""Time limit for opening a connection, in seconds."""
FILE_TIMEOUT = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=60)
"""Limits of a file transfer: any total time, but at most 60 s without a byte."""
LARGEST_ANSWER = 4 * 2**20
"""Largest body, in bytes; a longer one cannot be an answer to a request for a short text."""


class HTTPSession:
    """A connection pool for requests below one address.

    Proxies set in the environment are used, except for this machine's own addresses. The key is sent but never written
    or logged; redirects are not followed, so no other server gets it.

    Args:
        address: such as `https://api.example.com/v1`.
        api_key: sent as a bearer token.
        timeout: time limit of one request, in seconds.
        extras: additional headers and URL parameters.
    """

    def __init__(self, address: str, api_key: str | None, timeout: float, extras: HTTPExtras) -> None:
        self.address = address
        self._headers = CIMultiDict({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._headers.update(extras.headers)
        self._query = dict(extras.query)
        self._redactor = Redactor({api_key or "", *extras.secrets})
        self._timeout = timeout
        proxy = proxy_for(address)
        is_open = urlsplit(address).scheme == "http"  # then the proxy reads the request itself
        self._headers.update(proxy.headers if is_open else {})
        self._proxy, self._proxy_headers = proxy.address, None if is_open else proxy.headers
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Open the connection pool."""
        # Not trust_env: it also reads ~/.netrc, and fails if that lists the host and a key is set too. No session-wide
        # headers: aiohttp would send them, with the key, to the proxy as well.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(self._timeout, sock_connect=CONNECT_SECONDS, sock_read=self._timeout),
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
            self._session = None

    def redact_error(self, error: LLMError) -> LLMError:
        """Remove the secrets from an error's message, and return the error."""
        return self._redactor.redact_error(error)

    async def call(self, method: str, path: str, body: bytes | aiohttp.FormData | None = None) -> Any:
        """Send one request; return the JSON value of the answer.

        Raises:
            LLMError: see `Client.complete`.
        """
        url = f"{self.address}/{path}"
        try:
            async with self._response(method, path, body) as response:
                raw = await _read_body(response)
            if len(raw) > LARGEST_ANSWER:
                raise LLMReplyError(f"{url}: the answer is longer than {LARGEST_ANSWER} bytes.", billed=True)
            return json_in(raw)
        except LLMError as error:
            raise self.redact_error(error) from None
        except (ValueError, RecursionError):
            said = self._redactor.redact(raw.decode(errors="replace"))[:80]
            raise LLMReplyError(f"{url}: the answer is not JSON: {said!r}", billed=True) from None

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a file of any size, piece by piece.

        Raises:
            LLMError: see `Client.complete`.
        """
        try:
            async with self._response("GET", path, None) as response:
                async for part in response.content.iter_any():
                    yield part
        except LLMError as error:
            raise self.redact_error(error) from None

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, body: bytes | aiohttp.FormData | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a response with a success status; raise any other as an `LLMError`."""
        if self._session is None:
            raise RuntimeError("EndpointClient must be entered before it is used")
        url = f"{self.address}/{path}"
        headers = self._headers.copy()
        options: dict[str, Any] = {"headers": headers, "proxy": self._proxy, "proxy_headers": self._proxy_headers}
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        elif path != "models":  # a file
            options["timeout"] = FILE_TIMEOUT
        try:
            async with self._session.request(
                method, url, params=self._query, data=body, allow_redirects=False, **options
            ) as response:
                if not 200 <= response.status < 300:
                    said = (await _read_body(response)).decode(errors="replace")
                    raise refusal(url, response, self._redactor.redact(said))
                yield response
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise connection_error(url, error, self._timeout) from None


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body; stop just past the allowed length if it is too long."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        parts.append(part)
        if size > LARGEST_ANSWER:
            response.close()
            break
    return b"".join(parts)
