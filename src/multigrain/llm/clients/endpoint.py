"""Any OpenAI-compatible server, over HTTP."""

import asyncio
import base64
import email.utils
import errno
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from functools import cache
from typing import Any, Self
from urllib.parse import quote, quote_plus, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl
from multidict import CIMultiDict

from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import BUSY, Answer, Extras, Request, is_loopback
from multigrain.llm.reply import json_in, read_answer
from multigrain.progress import say

CONNECT_SECONDS = 10.0
MODELS_SECONDS, ALIVE_SECONDS = 15.0, 10.0
"""How long a server may take to list its models, at the start and later; the first is longer than it takes to see that
nobody is there."""
LARGEST_ANSWER = 4 * 2**20
"""Bytes; a longer body is no answer to a request for a short text."""
LONGEST_WAIT = 3600.0
"""Seconds for which a server may ask."""
FILE_TIMEOUT = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=60)
SERVER_ERROR = 500
PAYMENT = 402
_NO_CREDIT = re.compile(r"insufficient[ _](?:quota|credit|balance|funds)", re.IGNORECASE)
SHORTEST_SECRET = 4
"""Characters; to take out less would spoil every message."""
NO_EXTRAS = Extras()


class EndpointClient:
    """Speaks `/models`, `/completions` and `/chat/completions` below `base_url`.

    Proxies of the environment are honoured, except for this machine's own addresses. The key is sent, and
    never written or logged; redirects are not followed, so it goes nowhere else.

    Args:
        base_url: such as `https://api.example.com/v1`.
        model: a name that the server knows.
        api_key: sent as a bearer token.
        timeout: seconds that one request may take.
        extras: further headers, and parameters of the address.
    """

    def __init__(
        self, base_url: str, model: str, api_key: str | None = None, timeout: float = 120, extras: Extras = NO_EXTRAS
    ) -> None:
        self.address = base_url.rstrip("/")
        self.model = model
        self.dialect: Dialect | None = None
        self._headers = CIMultiDict({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._headers.update(extras.headers)
        self._query = dict(extras.query)
        self._secrets = _forms_of({api_key or "", *extras.secrets})
        self._timeout = timeout
        self._proxy, login = _proxy(base_url)
        is_open = urlsplit(base_url).scheme == "http"  # then the proxy reads the request itself
        self._headers.update(login if is_open else {})
        self._proxy_headers = None if is_open else login
        self._lists_models = True
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool, and see whether anybody is there who knows the model."""
        # Not trust_env: that also reads ~/.netrc, and fails where it holds the host and a key is set too. No headers
        # for the whole session: aiohttp would send them to the proxy as well, the key among them.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(self._timeout, sock_connect=CONNECT_SECONDS, sock_read=self._timeout),
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
        reply = await self.call("POST", path, encode(body))
        try:
            return read_answer(reply)
        except LLMError as error:
            raise self._redacted(error) from None

    async def is_alive(self) -> bool:
        """See `Client.is_alive`: `/models` says so, or says anything where it never was of use."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self.call("GET", "models")
        except LLMRefused:
            return True
        except TimeoutError:
            return not self._lists_models
        except LLMError as error:
            return error.status == BUSY or (_has_arrived(error) and not self._lists_models)
        return True

    async def _check_model(self) -> None:
        """Warn where the list of models is refused, or does not hold ours; the first request decides whether we go on.

        Raises:
            LLMError: no request comes as far as the server.
        """
        try:
            async with asyncio.timeout(MODELS_SECONDS):
                listing = await self.call("GET", "models")
        except (LLMError, TimeoutError) as error:
            if isinstance(error, LLMError) and not _has_arrived(error):
                raise
            self._lists_models = False
            status = getattr(error, "status", None) or 0
            if isinstance(error, LLMReplyError) or status in (404, 405, BUSY) or status >= SERVER_ERROR:
                return  # nothing to tell: many have no list, or are busy just now
            said = str(error) or f"{self.address}/models: no answer within {MODELS_SECONDS:g} s."
            _say_once(f"{said} Going on without the list of models: the first request decides.")
            return
        names = _names_in(listing)
        if names and not _is_among(self.model, names):
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            said = f'{self.address}: does not list the model "{self.model}" (llm.model); it lists: {some}.'
            _say_once(f"{said} Going on: the first request decides.")

    async def call(self, method: str, path: str, body: bytes | aiohttp.FormData | None = None) -> Any:
        """One HTTP request below `base_url`; returns the JSON value of the answer.

        Raises:
            LLMError: see `Client.complete`.
        """
        where = f"{self.address}/{path}"
        try:
            async with self._response(method, path, body) as response:
                raw = await _body(response)
            if len(raw) > LARGEST_ANSWER:
                raise LLMReplyError(f"{where}: the answer is longer than {LARGEST_ANSWER} bytes.", billed=True)
            return json_in(raw)
        except LLMError as error:
            raise self._redacted(error) from None
        except (ValueError, RecursionError):
            said = self._without_key(raw.decode(errors="replace"))[:80]
            raise LLMReplyError(f"{where}: answered something that is not JSON: {said!r}", billed=True) from None

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """The content of a file below `base_url`, of any size, piece by piece.

        Raises:
            LLMError: see `Client.complete`.
        """
        try:
            async with self._response("GET", path, None) as response:
                async for part in response.content.iter_any():
                    yield part
        except LLMError as error:
            raise self._redacted(error) from None

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, body: bytes | aiohttp.FormData | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with a status of success; all else as the error that it is."""
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
                    said = (await _body(response)).decode(errors="replace")
                    raise _refusal(url, response, self._without_key(said))
                yield response
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _translated(url, error, self._timeout) from None

    def _redacted(self, error: LLMError) -> LLMError:
        """The error without the key, which some servers repeat."""
        error.args = (self._without_key(str(error)),)
        return error

    def _without_key(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _has_arrived(error: LLMError) -> bool:
    """Whether the server was reached, whatever became of it then."""
    return error.status is not None or error.billed


@cache
def _say_once(message: str) -> None:
    """Each stage, and each grade that is repaired, connects anew."""
    say(message)


def _names_in(listing: Any) -> list[str]:
    entries = listing.get("data") if isinstance(listing, dict) else listing
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [id for id in ids if isinstance(id, str)]


def _is_among(model: str, names: list[str]) -> bool:
    """Whether a name is listed: as it is, by a wildcard, or but for `models/` before it or a `:variant` behind."""
    patterns = (".*".join(map(re.escape, _plain(name).split("*"))) for name in names)
    return any(re.fullmatch(pattern, _plain(model)) for pattern in patterns)


def _plain(name: str) -> str:
    return name.removeprefix("models/").partition(":")[0].casefold()


def _forms_of(secrets: set[str]) -> list[str]:
    """The secrets as they are, as JSON and as addresses write them, the longest first."""
    forms: set[str] = set()
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            sent = yarl.URL("/").with_query({"": secret}).raw_query_string.lstrip("=")
            forms |= {secret, json.dumps(secret)[1:-1], quote(secret), quote_plus(secret), sent}
    return sorted(forms, key=len, reverse=True)


def _translated(url: str, error: Exception, timeout: float) -> LLMError:
    """An error of the HTTP client's, as one of ours."""
    if isinstance(error, TimeoutError):
        is_connected = not isinstance(error, aiohttp.ConnectionTimeoutError)
        limit = f"no answer within {timeout:g} s (llm.timeout)" if is_connected else "no connection"
        return LLMUnavailable(f"{url}: {limit}.", billed=is_connected)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        hint = "For an authority of your own, set the environment variable SSL_CERT_FILE."
        return LLMRefused(f"{url}: its certificate is not trusted: {error}. {hint}")
    if isinstance(error, aiohttp.ClientSSLError):
        return LLMRefused(f"{url}: no secure connection: {error}. Is it an http:// address?")
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return LLMRefused(f"{url}: too many open files. Lower llm.max_concurrency, or raise the limit (ulimit -n).")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError):
        return LLMUnavailable(f"{url}: {error}.")
    return LLMUnavailable(f"{url}: {error or type(error).__name__}.", billed=True)


def request_body(request: Request, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """The path below the base URL and the JSON body of a request."""
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    body |= json.loads(request.extra or "{}")
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


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, or of one that is too long a little more than it may have."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        parts.append(part)
        if size > LARGEST_ANSWER:
            response.close()
            break
    return b"".join(parts)


def _refusal(url: str, response: aiohttp.ClientResponse, text: str) -> LLMError:
    status, said = response.status, " ".join(text.split())[:200]
    message = f"{url}: HTTP {status}: {said}"
    if status == PAYMENT or (status in (403, BUSY) and _NO_CREDIT.search(text)):
        return LLMRefused(f"{message} The account has no credit left.", PAYMENT)
    if status in (408, 425, BUSY) or (status >= SERVER_ERROR and status != 501):
        # Behind a gateway that gave up, the model may have gone on.
        return LLMUnavailable(message, status, billed=status in (502, 504), retry_after=_retry_after(response))
    if status in (401, 403):
        hint = "The key was refused: see the environment variable of llm.api_key_env or llm.extra_headers."
    elif status == 404:
        hint = "Are llm.base_url and llm.model right? Raw completions need a server that has /completions."
    elif 300 <= status < 400:
        elsewhere = response.headers.get("Location", "?")
        return LLMRefused(
            f"{message} The server sends elsewhere: {elsewhere}. Set llm.base_url to the right address.", status
        )
    else:
        hint = "The server refuses this request."
    return LLMRefused(f"{message} {hint}", status, said=text)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds to wait, from `Retry-After` (seconds or a date) or OpenAI's `retry-after-ms`."""
    seconds = response.headers.get("Retry-After", "").strip()
    milliseconds = response.headers.get("retry-after-ms", "").strip()
    try:
        if _is_number(milliseconds):
            asked = float(milliseconds) / 1000
        elif _is_number(seconds):
            asked = float(seconds)
        else:
            asked = _moment(seconds) - _now(response)
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, asked), LONGEST_WAIT)


def _now(response: aiohttp.ClientResponse) -> float:
    """By the server's clock, where it tells: ours may be minutes away from it."""
    try:
        return _moment(response.headers["Date"])
    except (KeyError, ValueError, OverflowError):
        return time.time()


def _moment(date: str) -> float:
    """The moment of an HTTP date, whose zone is always GMT."""
    moment = email.utils.parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit()


def _proxy(url: str) -> tuple[str | None, dict[str, str]]:
    """The proxy that the environment names for the address, and the login for it, which no message may show."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(host) or not (proxy := getproxies().get(parts.scheme)):
        return None, {}
    address = yarl.URL(proxy)
    if not address.user:
        return proxy, {}
    login = base64.b64encode(f"{address.user}:{address.password or ''}".encode()).decode()
    return str(address.with_user(None)), {"Proxy-Authorization": f"Basic {login}"}
