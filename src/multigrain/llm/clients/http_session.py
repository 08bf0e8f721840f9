"""HTTP requests below one address, with the key and the proxy; each fault as one of our errors."""

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
FILE_TIMEOUT = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=60)
LARGEST_ANSWER = 4 * 2**20
"""Bytes; a longer body is no answer to a request for a short text."""


class HTTPSession:
    """A connection pool for the requests below one address.

    Proxies of the environment are honoured, except for this machine's own addresses. The key is sent, and
    never written or logged; redirects are not followed, so it goes nowhere else.

    Args:
        address: such as `https://api.example.com/v1`.
        api_key: sent as a bearer token.
        timeout: seconds that one request may take.
        extras: further headers, and parameters of the address.
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
        # Not trust_env: that also reads ~/.netrc, and fails where it holds the host and a key is set too. No headers
        # for the whole session: aiohttp would send them to the proxy as well, the key among them.
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
        """Take the key out of the message of an error, and return the error."""
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
            raise LLMReplyError(f"{url}: answered something that is not JSON: {said!r}", billed=True) from None

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
        """Yield a response with a status of success; raise all else as the error that it is."""
        if self._session is None:
            raise RuntimeError("EndpointClient must be entered before it is used")
        url = f"{self.address}/{path}"
        headers = self._headers.copy()
        options: dict[str, Any] = {"headers": headers, "proxy": self._proxy, "proxy_headers": self._proxy_headers}
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        elif path != "models":  # a file takes as long as it takes
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
    """Read the body; of one that is too long, a little more than it may have."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        parts.append(part)
        if size > LARGEST_ANSWER:
            response.close()
            break
    return b"".join(parts)
