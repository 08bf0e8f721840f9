import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.client import Answer, Request
from multigrain.llm.endpoint import EndpointClient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ASK = Request("chat", "hello", "m", 5, 0.5, ("\n",), 3)


def with_server(handler: Handler, work: Callable[[str], Awaitable[Any]], models: Handler | None = None) -> Any:
    """Run `work(base_url)` against a real server on 127.0.0.1."""

    async def listing(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def run() -> Any:
        app = web.Application()
        app.router.add_get("/v1/models", models or listing)
        app.router.add_post("/v1/{kind:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            return await work(f"http://{host}:{port}/v1")
        finally:
            await runner.cleanup()

    return asyncio.run(run())


async def ask(url: str, key: str | None = None, model: str = "m", timeout: float = 5) -> Answer:
    async with EndpointClient(url, model, key, timeout) as client:
        return await client.complete(ASK)


def test_chat_and_completion_are_sent_as_openai_wants_them() -> None:
    seen: list[tuple[str, str | None, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append((request.path, request.headers.get("Authorization"), body))
        text = {"message": {"content": "hi"}} if "messages" in body else {"text": "there"}
        return web.json_response({"choices": [text], "usage": {"prompt_tokens": 4, "completion_tokens": 2}})

    async def work(url: str) -> list[Answer]:
        async with EndpointClient(url, "m", "secret") as client:
            return [
                await client.complete(ASK),
                await client.complete(Request("completion", "hello", "m", 5, 0.5)),
            ]

    assert with_server(handler, work) == [Answer("hi", 4, 2), Answer("there", 4, 2)]
    chat, completion = seen
    assert chat[:2] == ("/v1/chat/completions", "Bearer secret")
    assert chat[2] == {
        "model": "m",
        "max_tokens": 5,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["\n"],
        "messages": [{"role": "user", "content": "hello"}],
    }
    assert completion[0] == "/v1/completions"
    assert completion[2]["prompt"] == "hello"
    assert "stop" not in completion[2]


async def _html(_request: web.Request) -> web.Response:
    return web.Response(text="<html>Welcome</html>", content_type="text/html")


async def _no_choices(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list"})


async def _null_text(_request: web.Request) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": None}}]})


async def _huge(_request: web.Request) -> web.Response:
    return web.Response(body=b"x" * (5 * 2**20))


async def _hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport
    request.transport.close()
    return response


def _status(status: int) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, text="because")

    return handler


@pytest.mark.parametrize(
    ("handler", "kind", "expected"),
    [
        (_html, LLMReplyError, "not JSON: b'<html>Welcome"),
        (_no_choices, LLMReplyError, "not an OpenAI-style answer"),
        (_null_text, LLMReplyError, "holds no text"),
        (_huge, LLMReplyError, "longer than"),
        (_hang, LLMUnavailable, "no answer within 0.5 s"),
        (_cut, LLMUnavailable, "chat/completions"),
        (_status(429), LLMUnavailable, "HTTP 429: because"),
        (_status(503), LLMUnavailable, "HTTP 503"),
        (_status(400), LLMRefused, "HTTP 400: because"),
        (_status(401), LLMRefused, "key was refused"),
    ],
)
def test_each_fault_of_the_server_has_its_kind(handler: Handler, kind: type[LLMError], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        with_server(handler, lambda url: ask(url, timeout=0.5))


def test_the_key_is_in_no_message() -> None:
    with pytest.raises(LLMRefused) as caught:
        with_server(_html, lambda url: ask(url, key="topsecret"), models=_status(403))
    assert "topsecret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_model_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(LLMRefused, match='has no model "n"; it has: m'):
        with_server(_html, lambda url: ask(url, model="n"))


def test_a_server_without_a_list_of_models_is_taken_at_its_word() -> None:
    with pytest.raises(LLMReplyError, match="not JSON"):
        with_server(_html, ask, models=_status(404))


def test_nobody_there() -> None:
    with pytest.raises(ConfigError, match=r"Is the server running, and llm.base_url right\?"):
        asyncio.run(ask("http://127.0.0.1:9/v1"))
