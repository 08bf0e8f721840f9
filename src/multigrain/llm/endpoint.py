"""Any OpenAI-compatible server, over HTTP."""

import asyncio
import email.utils
import ipaddress
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.client import Answer, Request
from multigrain.llm.dialect import Dialect

CONNECT_SECONDS = 10.0
ALIVE_SECONDS = 10.0
"""How long a server may take to say that it is there."""
LARGEST_ANSWER = 4 * 2**20
"""Bytes; a longer body is no answer to a request for a short text."""
MOST_TOKENS = 10**9
"""A server that counts more in one answer does not count."""
JSON_HEADERS = {"Content-Type": "application/json"}
BUSY = 429
PAYMENT = 402


class EndpointClient:
    """Speaks `/models`, `/completions` and `/chat/completions` below `base_url`.

    Proxies of the environment are honoured, except for this machine's own addresses. The key is sent, and
    never written or logged; redirects are not followed, so it goes nowhere else.

    Args:
        base_url: such as `https://api.example.com/v1`.
        model: must be among the server's `/models`, where it has such a list.
        api_key: sent as a bearer token.
        timeout: seconds that one request may take.
    """

    def __init__(self, base_url: str, model: str, api_key: str | None = None, timeout: float = 120) -> None:
        self.address = base_url.rstrip("/")
        self.model = model
        self.dialect: Dialect | None = None
        self._api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._proxy = _proxy(base_url)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool, and check address, key and model."""
        # Not trust_env: that also reads ~/.netrc, and fails where it holds the host and a key is set too.
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
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
        if self._session:
            await self._session.close()
            self._session = None

    async def complete(self, request: Request) -> Answer:
        """See `Client.complete`."""
        path, body = request_body(request, self.dialect or Dialect())
        return read_answer(await self.call("POST", path, encode(body)))

    async def is_alive(self) -> bool:
        """See `Client.is_alive`: any answer below 500 is one."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self.call("GET", "models")
        except LLMRefused:
            return True
        except (LLMError, TimeoutError) as error:
            return getattr(error, "status", None) == BUSY
        return True

    async def _check_model(self) -> None:
        """Ask for the list of models; a server that has none, or is busy now, is taken at its word."""
        try:
            listing = await self.call("GET", "models")
        except LLMError as error:
            if error.status in (404, 405, 429, 500, 502, 503, 504):
                return
            raise
        entries = listing.get("data") if isinstance(listing, dict) else None
        names = [str(entry.get("id")) for entry in entries or [] if isinstance(entry, dict)]
        if names and self.model not in names:
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise LLMRefused(f'{self.address}: has no model "{self.model}"; it has: {some}. Set llm.model to one.')

    async def call(self, method: str, path: str, body: bytes | aiohttp.FormData | None = None) -> Any:
        """One HTTP request below `base_url`; returns the JSON value of the answer.

        Raises:
            LLMError: see `Client.complete`.
        """
        async with self._response(method, path, body) as response:
            raw = await _body(response)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            where = f"{self.address}/{path}"
            raise LLMReplyError(f"{where}: answered something that is not JSON: {raw[:80]!r}", billed=True) from None

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """The content of a file below `base_url`, of any size, piece by piece.

        Raises:
            LLMError: see `Client.complete`.
        """
        async with self._response("GET", path, None) as response:
            async for part in response.content.iter_any():
                yield part

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, body: bytes | aiohttp.FormData | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 200; all else as the error that it is."""
        if self._session is None:
            raise RuntimeError("EndpointClient must be entered before it is used")
        url = f"{self.address}/{path}"
        headers = JSON_HEADERS if isinstance(body, bytes) else None  # a form brings its own
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, proxy=self._proxy, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _refusal(url, response, self._redacted(await response.content.read(LARGEST_ANSWER)))
                yield response
        except aiohttp.ConnectionTimeoutError:
            raise LLMUnavailable(f"{url}: no connection within {CONNECT_SECONDS:g} s.") from None
        except TimeoutError:
            raise LLMUnavailable(f"{url}: no answer within {self._timeout:g} s (llm.timeout).", billed=True) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            hint = "For an authority of your own, set the environment variable SSL_CERT_FILE."
            raise LLMRefused(f"{url}: its certificate is not trusted: {error}. {hint}") from None
        except aiohttp.ClientConnectorError as error:
            raise LLMUnavailable(f"{url}: {error}.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise LLMUnavailable(f"{url}: {error or type(error).__name__}.", billed=True) from None

    def _redacted(self, raw: bytes) -> str:
        """What the server said, without the key, which some servers repeat."""
        text = raw.decode(errors="replace")
        return text.replace(self._api_key, "[key]") if self._api_key else text


def request_body(request: Request, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """The path below the base URL and the JSON body of a request."""
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.kind == "chat":
        body["messages"] = [{"role": "user", "content": request.prompt}]
        return "chat/completions", dialect.spoken(body, request.schema)
    body["prompt"] = request.prompt
    return "completions", dialect.spoken(body, None)


def encode(body: Any) -> bytes:
    """As JSON; half surrogates, which UTF-8 cannot hold, become question marks."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def read_answer(reply: Any) -> Answer:
    """The answer in the body of a response.

    Raises:
        LLMReplyError: there is none.
        LLMRefused: the model declined to answer.
    """
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice.get("message") or {}
        text = message["content"] if "message" in choice else choice["text"]
        tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        finish_reason = choice.get("finish_reason") or "stop"
        refusal = message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise LLMReplyError(f"not an OpenAI-style answer: {json.dumps(reply)[:120]}", billed=True) from None
    prompt_tokens, completion_tokens = (n if isinstance(n, int) and 0 <= n < MOST_TOKENS else None for n in tokens)
    if isinstance(refusal, str) and refusal:
        finish_reason, text = "content_filter", refusal
    text = text if isinstance(text, str) else ""
    return Answer(text.encode("utf-8", "replace").decode(), prompt_tokens, completion_tokens, str(finish_reason))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER:
            response.close()
            raise LLMReplyError(f"{response.url}: the answer is longer than {LARGEST_ANSWER} bytes.", billed=True)
        parts.append(part)
    return b"".join(parts)


def _refusal(url: str, response: aiohttp.ClientResponse, text: str) -> LLMError:
    status, said = response.status, " ".join(text.split())[:200]
    message = f"{url}: HTTP {status}: {said}"
    if status == BUSY and "insufficient_quota" in text:
        return LLMRefused(f"{message} The account has no credit left.", PAYMENT)
    if status in (408, 425, BUSY) or status >= 500:
        return LLMUnavailable(message, status, retry_after=_retry_after(response))
    if status in (401, 403):
        hint = "The key was refused: see the environment variable that llm.api_key_env names, and whether it is named."
    elif status == 404:
        hint = "Are llm.base_url and llm.model right? Raw completions need a server that has /completions."
    elif 300 <= status < 400:
        elsewhere = response.headers.get("Location", "?")
        return LLMRefused(f"{message} The server sends elsewhere: {elsewhere}. Set llm.base_url to the right address.")
    else:
        hint = "The server refuses this request."
    return LLMRefused(f"{message} {hint}", status)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds to wait, from `Retry-After` (seconds or a date) or OpenAI's `retry-after-ms`."""
    try:
        if milliseconds := response.headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = response.headers.get("Retry-After", "").strip()
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for the address."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
