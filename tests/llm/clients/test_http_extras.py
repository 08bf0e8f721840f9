"""Headers, parameters and fields of the body that the user adds to each request."""

import asyncio
import datetime
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from multigrain.config import Config, LLMSection, differences, validated
from multigrain.errors import ConfigError, LLMRefused
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.clients.factory import extras_of, make_clients
from multigrain.llm.protocol import Answer, Request
from multigrain.pipeline.run_dir import to_toml
from tests.llm.clients.local_server import ASK, good


def test_what_goes_along_with_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Azure wants it: a deployment in the address, `?api-version`, and a header `api-key`."""
    monkeypatch.setenv("MY_KEY", "top secret?")
    seen: list[tuple[str, dict[str, str], web.Request, dict[str, Any]]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        body = json.loads(await request.text() or "{}")
        seen.append((request.path, dict(request.query), request.headers, body))  # type: ignore[arg-type]
        if request.path.endswith("models"):
            return web.json_response({}, status=404)
        said = f"{request.headers['api-key']} {request.url} {request.headers['X-Tenant']}"
        return web.json_response({"error": said}, status=403) if body.get("seed") else await good(request)  # type: ignore[arg-type]

    section = LLMSection.model_validate(
        {
            "provider": "endpoint",
            "model": "m",
            "base_url": "http://HOST/openai/deployments/mine",
            "extra_headers": {"api-key": "$MY_KEY", "X-Tenant": "a ${MY_KEY}", "authorization": "Token $MY_KEY"},
            "query": {"api-version": "2024-10-21", "sig": "${MY_KEY}"},
            "extra_body": {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
        }
    )
    request = Request("chat", "hello", "m", 5, 0.5, extra=section.extra)

    async def work() -> Answer:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        (client,) = make_clients(
            section.model_copy(update={"base_url": [f"http://127.0.0.1:{port}/openai/deployments/mine"]})
        )
        assert isinstance(client, EndpointClient)
        try:
            async with client:
                with pytest.raises(LLMRefused) as caught:
                    await client.complete(replace(request, seed=1))
                assert "secret" not in str(caught.value) + caught.value.said + repr(client)
                await client.http.call("GET", "batches?limit=2")
                return await client.complete(request)
        finally:
            await runner.cleanup()

    assert asyncio.run(work()) == Answer("good")
    path, query, headers, body = seen[-1]
    assert path == "/openai/deployments/mine/chat/completions"
    assert query == {"api-version": "2024-10-21", "sig": "top secret?"}
    assert seen[-2][1] == {**query, "limit": "2"}
    assert [headers[name] for name in ("api-key", "X-Tenant", "Authorization")] == [
        "top secret?",
        "a top secret?",
        "Token top secret?",
    ]
    assert body["reasoning_effort"] == "low" and body["chat_template_kwargs"] == {"enable_thinking": False}


def test_fields_of_the_body_decide_the_answer_and_the_rest_does_not() -> None:
    assert ASK.key == replace(ASK, extra="").key != replace(ASK, extra='{"a": 1}').key
    made = [Config.model_validate({"name": "x", "data": {"pairs": "p"}, "llm": llm}) for llm in EXTRAS]
    assert [config.fingerprint("llm") == made[0].fingerprint("llm") for config in made] == [True, True, True, False]
    assert not differences(made[0].model_dump(exclude_none=True), made[2])
    assert "llm.extra_body.a = 1" in differences(made[0].model_dump(exclude_none=True), made[3])[0]


EXTRAS: list[dict[str, Any]] = [
    {},
    {"query": {"v": "1"}},
    {"extra_headers": {"X-Title": "me"}},
    {"extra_body": {"a": 1}},
]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"extra_body": {"stream": True}}, 'llm.extra_body: found "stream", which multigrain sets itself'),
        ({"extra_body": {"max_tokens": 7}}, "set synthesis.answer_tokens instead"),
        ({"extra_body": {"top_p": float("nan")}}, "wanted values that JSON can represent"),
        ({"extra_body": {"day": datetime.date(2024, 1, 1)}}, "wanted values that JSON can represent"),
        ({"extra_headers": {"api-key": "abc123"}}, 'wanted the name of an environment variable, such as "$MY_KEY"'),
        ({"extra_headers": {"Authorization": "Bearer abc123"}}, "wanted the name of an environment variable"),
        ({"query": {"key": "abc123"}}, "wanted the name of an environment variable"),
        ({"extra_headers": {"a b": "x"}}, "not a valid header name"),
        ({"extra_headers": {"Content-Type": "x"}}, "which multigrain sets itself"),
        ({"extra_headers": {"X-Title": "two\nlines"}}, "characters not allowed in a header"),
    ],
)
def test_what_cannot_go_along_is_told(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        validated({"name": "x", "data": {"pairs": "p"}, "llm": settings}, "run.toml")
    assert "abc123" not in str(caught.value)


def test_variables_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    section = LLMSection(extra_headers={"api-key": "$NO_SUCH_KEY"})
    with pytest.raises(ConfigError, match=r"llm.extra_headers.api-key: the environment variable NO_SUCH_KEY is not"):
        extras_of(section)
    monkeypatch.setenv("NO_SUCH_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="a line break"):
        extras_of(section)


def test_no_secret_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "topsecret")
    llm = {"extra_headers": {"api-key": "$MY_KEY"}, "query": {"key": "${MY_KEY}"}}
    written = to_toml(Config.model_validate({"name": "x", "data": {"pairs": "p"}, "llm": llm}))
    assert '"$MY_KEY"' in written and '"${MY_KEY}"' in written and "topsecret" not in written
