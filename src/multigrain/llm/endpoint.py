"""Any OpenAI-compatible server, over HTTP."""

import json
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.client import Answer, Request

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 4 * 2**20
"""Bytes; a longer body is no answer to a request for a short text."""


class EndpointClient:
    """Speaks `/models`, `/completions` and `/chat/completions` below `base_url`.

    Proxies of the environment are honoured, except for this machine's own addresses. The key is sent, and
    never written or logged.

    Args:
        base_url: such as `https://api.example.com/v1`.
        model: must be among the server's `/models`, where it has such a list.
        api_key: sent as a bearer token.
        timeout: seconds that one request may take.
    """

    def __init__(self, base_url: str, model: str, api_key: str | None = None, timeout: float = 120) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool, and check address, key and model."""
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
            trust_env=urlsplit(self.base_url).hostname not in LOOPBACK,
        )
        try:
            await self._check_model()
        except LLMUnavailable as error:
            await self.__aexit__()
            raise ConfigError("llm.base_url", [str(error)]) from None
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
        body = {
            "model": request.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.kind == "chat":
            body["messages"] = [{"role": "user", "content": request.prompt}]
            return _answer(await self._call("POST", "chat/completions", body))
        body["prompt"] = request.prompt
        return _answer(await self._call("POST", "completions", body))

    async def _check_model(self) -> None:
        """Ask for the list of models; a server that has none (404, 405) is taken at its word."""
        try:
            listing = await self._call("GET", "models")
        except LLMRefused as refused:
            if refused.status in (404, 405):
                return
            raise
        entries = listing.get("data") if isinstance(listing, dict) else None
        names = [str(entry.get("id")) for entry in entries or [] if isinstance(entry, dict)]
        if names and self.model not in names:
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise LLMRefused(f'{self.base_url}: has no model "{self.model}"; it has: {some}. Set llm.model to one.')

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self._session is None:
            raise RuntimeError("EndpointClient must be entered before it is used")
        url = f"{self.base_url}/{path}"
        try:
            async with self._session.request(method, url, json=body) as response:
                raw = (
                    await response.content.read(LARGEST_ANSWER + 1) if response.status != 200 else await _body(response)
                )
                if response.status != 200:
                    raise _refusal(url, response.status, self._redacted(raw))
        except TimeoutError:
            raise LLMUnavailable(f"{url}: no answer within {self._timeout:g} s (llm.timeout).") from None
        except aiohttp.ClientError as error:
            raise LLMUnavailable(f"{url}: {error}. Is the server running, and llm.base_url right?") from None
        try:
            return json.loads(raw)
        except ValueError:
            raise LLMReplyError(f"{url}: answered something that is not JSON: {raw[:80]!r}") from None

    def _redacted(self, raw: bytes) -> str:
        """What the server said, without the key, which some servers repeat."""
        text = raw.decode(errors="replace")
        return text.replace(self._api_key, "[key]") if self._api_key else text


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise LLMReplyError(f"{response.url}: the answer is longer than {LARGEST_ANSWER} bytes.")
        parts.append(part)
    return b"".join(parts)


def _refusal(url: str, status: int, text: str) -> LLMError:
    said = " ".join(text.split())[:200]
    if status in (408, 425, 429) or status >= 500:
        return LLMUnavailable(f"{url}: HTTP {status}: {said}", status)
    if status in (401, 403):
        hint = "The key was refused: see the environment variable that llm.api_key_env names, and whether it is named."
    elif status == 404:
        hint = "Are llm.base_url and llm.model right? Raw completions need a server that has /completions."
    else:
        hint = "The server refuses this request."
    return LLMRefused(f"{url}: HTTP {status}: {said} {hint}", status)


def _answer(reply: Any) -> Answer:
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        usage = reply.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise LLMReplyError(f"not an OpenAI-style answer: {json.dumps(reply)[:120]}") from None
    if not isinstance(text, str):
        raise LLMReplyError("the answer holds no text")
    return Answer(text.encode("utf-8", "replace").decode(), *tokens)
