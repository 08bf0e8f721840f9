import asyncio
from typing import Any

import pytest
from aiohttp import web

from multigrain.errors import ConfigError, LLMRefused
from multigrain.llm.clients import endpoint
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.protocol import Answer, Request
from tests.llm.clients.local_server import ASK, Handler, ask, cut, elsewhere, good, hang, html, with_server, with_status


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


@pytest.mark.parametrize(
    ("models", "warning"),
    [
        (with_status(401), "HTTP 401: because"),
        (with_status(403), "HTTP 403: because"),
        (with_status(400), "HTTP 400: because"),
        (with_status(404), ""),
        (with_status(503), ""),
        (elsewhere, "redirects to"),
        (html, ""),
        (cut, "Continuing"),
        (hang, "no answer within 0.1 s"),
        (with_status(200, '{"data": 7}'), ""),
        (with_status(200, '{"data": [{"name": "m"}, 7]}'), ""),
        (
            with_status(200, '{"data": [{"id": "a"}, {"id": "b"}]}'),
            'does not list the model "m" (llm.model); it lists: a, b',
        ),
        (with_status(200, '[{"id": "a"}]'), 'does not list the model "m"'),
    ],
)
def test_the_list_of_models_ends_no_command(
    models: Handler, warning: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoint, "MODELS_SECONDS", 0.1)

    async def twice(url: str) -> Answer:
        await ask(url)
        return await ask(url)

    assert with_server(good, twice, models=models) == Answer("good")
    said = capsys.readouterr().err
    assert warning in said and said.count("Continuing") == bool(warning)  # once for all that connect


def test_a_key_that_is_refused_is_told_by_the_first_request() -> None:
    with pytest.raises(LLMRefused, match="chat/completions: HTTP 401"):
        with_server(with_status(401), ask, models=with_status(401))


def test_nobody_there() -> None:
    with pytest.raises(ConfigError, match=r"Is the server running, and llm.base_url right\?"):
        asyncio.run(ask("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("prompt", ["NUL \0", "half \ud800 pair", "word " * 100_000])
def test_odd_prompts_arrive(prompt: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        content = (await request.json())["messages"][0]["content"]
        return web.json_response({"choices": [{"message": {"content": str(len(content))}}]})

    async def work(url: str) -> Answer:
        async with EndpointClient(url, "m") as client:
            return await client.complete(Request("chat", prompt, "m", 5, 0.5))

    assert with_server(handler, work) == Answer(str(len(prompt)))


def test_a_server_is_alive_if_it_answers_anything_but_garbage() -> None:
    async def alive(url: str) -> bool:
        client = EndpointClient(url, "m")
        async with client:
            client.address = url.replace("/v1", "/v1/later")
            return await client.is_alive()

    assert with_server(html, alive)  # 404
    states = [(with_status(503), False), (with_status(429), True), (with_status(401), True), (html, False)]
    for models, expected in states:
        found = with_server(html, _alive, models=models)
        assert found is expected, models


async def _alive(url: str) -> bool:
    client = EndpointClient(url, "m")
    client._check_model = _nothing  # type: ignore[method-assign]
    async with client:
        return await client.is_alive()


async def _nothing() -> None:
    pass
