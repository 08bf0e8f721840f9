import asyncio
import datetime
import email.utils
import json
import os
import re
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from multigrain.config import Config, LLMSection, differences, validated
from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm.clients import endpoint
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.clients.factory import extras_of, make_clients
from multigrain.llm.protocol import Answer, Request
from multigrain.pipeline.run_dir import to_toml

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


def events(*data: Any, start: str = "data: ", end: str = "\n\n") -> str:
    """A stream, as servers send it."""
    return "".join(f"{start}{item if isinstance(item, str) else json.dumps(item)}{end}" for item in data)


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}], "usage": None}


async def _html(_request: web.Request) -> web.Response:
    return web.Response(text="<html>Welcome</html>", content_type="text/html")


async def _no_choices(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list"})


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


async def _stream(_request: web.Request) -> web.Response:
    return web.Response(text=events(delta(content="half")), content_type="text/event-stream")


async def _endless(request: web.Request) -> web.StreamResponse:
    """100 MB, and more to come."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b"x" * 2**20)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.1)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


async def _nested(_request: web.Request) -> web.Response:
    return web.Response(text="[" * 10**6, content_type="application/json")


async def _elsewhere(_request: web.Request) -> web.Response:
    return web.Response(status=307, headers={"Location": "http://evil.example/"})


def _status(status: int, text: str = "because", **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return handler


@pytest.mark.parametrize(
    ("handler", "kind", "expected"),
    [
        (_html, LLMReplyError, "not JSON: '<html>Welcome"),
        (_no_choices, LLMReplyError, "not an OpenAI-style answer"),
        (_stream, LLMReplyError, "breaks off after: 'half'"),
        (_endless, LLMReplyError, "longer than"),
        (_drip, LLMUnavailable, "no answer within 2 s"),
        (_nested, LLMReplyError, "not JSON"),
        (_elsewhere, LLMRefused, "sends elsewhere: http://evil.example/"),
        (_huge, LLMReplyError, "longer than"),
        (_hang, LLMUnavailable, "no answer within 2 s"),
        (_cut, LLMUnavailable, "chat/completions"),
        (_status(429), LLMUnavailable, "HTTP 429: because"),
        (_status(503), LLMUnavailable, "HTTP 503"),
        (_status(400), LLMRefused, "HTTP 400: because"),
        (_status(401), LLMRefused, "key was refused"),
    ],
)
def test_each_fault_of_the_server_has_its_kind(handler: Handler, kind: type[LLMError], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        with_server(handler, lambda url: ask(url, timeout=2))


@pytest.mark.parametrize(
    "handler",
    [
        _status(403, "wrong key topsecret"),
        _status(200, "<p>" + "x" * 66 + "topsecret"),
        _status(200, '{"error": "wrong key topsecret"}'),
        _status(302, "", Location="http://x/?key=topsecret"),
        _status(500, "Bearer topsecret"),
    ],
)
def test_the_key_is_in_no_message(handler: Handler) -> None:
    with pytest.raises(LLMError) as caught:
        with_server(handler, lambda url: ask(url, key="topsecret"))
    assert "topsec" not in str(caught.value)
    assert "[key" in str(caught.value)


async def good(_request: web.Request) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": "good"}}]})


@pytest.mark.parametrize(
    ("models", "warning"),
    [
        (_status(401), "HTTP 401: because"),
        (_status(403), "HTTP 403: because"),
        (_status(400), "HTTP 400: because"),
        (_status(404), ""),
        (_status(503), ""),
        (_elsewhere, "sends elsewhere"),
        (_html, ""),
        (_cut, "Going on"),
        (_hang, "no answer within 0.1 s"),
        (_status(200, '{"data": 7}'), ""),
        (_status(200, '{"data": [{"name": "m"}, 7]}'), ""),
        (
            _status(200, '{"data": [{"id": "a"}, {"id": "b"}]}'),
            'does not list the model "m" (llm.model); it lists: a, b',
        ),
        (_status(200, '[{"id": "a"}]'), 'does not list the model "m"'),
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
    assert warning in said and said.count("the first request decides") == bool(warning)  # once for all that connect


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("llama3.2", "llama3.2:latest"),
        ("deepseek/deepseek-r1:free", "deepseek/deepseek-r1"),
        ("openai/gpt-x", "openai/*"),
        ("openai/gpt-x", "*"),
        ("Qwen3-8B", "qwen3-8b"),
    ],
)
def test_variants_of_a_listed_model_are_listed(model: str, listed: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "another"}, {"id": listed}]})

    assert with_server(good, lambda url: ask(url, model=model), models=models) == Answer("good")
    assert not capsys.readouterr().err


def test_a_key_that_is_refused_is_told_by_the_first_request() -> None:
    with pytest.raises(LLMRefused, match="chat/completions: HTTP 401"):
        with_server(_status(401), ask, models=_status(401))


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
        ({"extra_body": {"top_p": float("nan")}}, "wanted what JSON can hold"),
        ({"extra_body": {"day": datetime.date(2024, 1, 1)}}, "wanted what JSON can hold"),
        ({"extra_headers": {"api-key": "abc123"}}, 'wanted the name of an environment variable, such as "$MY_KEY"'),
        ({"extra_headers": {"Authorization": "Bearer abc123"}}, "wanted the name of an environment variable"),
        ({"query": {"key": "abc123"}}, "wanted the name of an environment variable"),
        ({"extra_headers": {"a b": "x"}}, "no name of a header"),
        ({"extra_headers": {"Content-Type": "x"}}, "which multigrain sets itself"),
        ({"extra_headers": {"X-Title": "two\nlines"}}, "characters that a header cannot"),
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
    with pytest.raises(ConfigError, match="a line end"):
        extras_of(section)


def test_no_secret_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "topsecret")
    llm = {"extra_headers": {"api-key": "$MY_KEY"}, "query": {"key": "${MY_KEY}"}}
    written = to_toml(Config.model_validate({"name": "x", "data": {"pairs": "p"}, "llm": llm}))
    assert '"$MY_KEY"' in written and '"${MY_KEY}"' in written and "topsecret" not in written


def test_nobody_there() -> None:
    with pytest.raises(ConfigError, match=r"Is the server running, and llm.base_url right\?"):
        asyncio.run(ask("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "9" * 400}, 3600.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:10 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:10 -0000", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:10", "Date": "Wed, 21 Oct 2015 07:28:00"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2065 07:28:10 GMT", "Date": "soon"}, 3600.0),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999"}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    with pytest.raises(LLMUnavailable) as caught:
        with_server(_status(429, **headers), ask)
    assert caught.value.retry_after == seconds


def test_a_date_to_wait_for() -> None:
    with pytest.raises(LLMUnavailable) as caught:
        with_server(_status(503, **{"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)}), ask)
    assert caught.value.retry_after is not None
    assert 55 < caught.value.retry_after <= 60


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (429, '{"error": {"code": "insufficient_quota"}}'),
        (402, '{"error": {"message": "Insufficient credits"}}'),
        (402, "Payment Required"),
        (403, "Insufficient Balance"),
    ],
)
def test_an_account_without_credit_is_not_merely_busy(status: int, said: str) -> None:
    with pytest.raises(LLMRefused, match="no credit left"):
        with_server(_status(status, said), ask)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": None}, "finish_reason": "length"}, Answer("", None, None, "length")),
        ({"message": {"content": "x"}, "finish_reason": "content_filter"}, Answer("x", None, None, "content_filter")),
        ({"message": {"content": None, "refusal": "I can't"}}, Answer("I can't", None, None, "content_filter")),
        ({"message": {"content": "half a \ud800 pair"}}, Answer("half a ? pair")),
        ({"text": 7}, Answer("")),
        ({"text": "x", "finish_reason": "\ud800"}, Answer("x", None, None, "?")),
    ],
)
def test_odd_answers_are_answers(choice: dict[str, Any], expected: Answer) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 10**40, "completion_tokens": "many"}})

    assert with_server(handler, ask) == expected


WHOLE = [delta(role="assistant"), delta(content="a\n\n"), delta(content="b"), delta("length"), "[DONE]"]
USAGE = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (events(*WHOLE), Answer("a\n\nb", None, None, "length")),
        (events(*WHOLE, end="\n"), Answer("a\n\nb", None, None, "length")),
        ('data: {"choices":\ndata: [{"text": "x", "finish_reason": "stop"}]}\n\n', Answer("x")),
        (events(*WHOLE, start="data:", end="\r\n\r\n"), Answer("a\n\nb", None, None, "length")),
        (": waiting\n\n" + events(*WHOLE, start="event: x\nid: 1\ndata: "), Answer("a\n\nb", None, None, "length")),
        (events(*WHOLE[:-1], USAGE, "[DONE]"), Answer("a\n\nb", 4, 2, "length")),
        (events(delta(content="x"), delta("stop")), Answer("x")),
        (events(delta(content="x"), "[DONE]"), Answer("x")),
        (events('{"choices": [{"delta": {"content": "a\u2028b"}}]}', "[DONE]"), Answer("a\u2028b")),
        (events("[DONE]"), Answer("")),
        (events(delta(reasoning_content="hm"), delta(content="x"), "[DONE]"), Answer("x", has_reasoning=True)),
        (events(delta(content=[{"type": "text", "text": "x"}]), "[DONE]"), Answer("x")),
        (events(delta(tool_calls=[{"id": "1"}]), "[DONE]"), Answer("", finish_reason="tool_calls")),
        (events(delta(refusal="no"), "[DONE]"), Answer("no", None, None, "content_filter")),
        (events({"choices": [{"text": "x"}]}, {"choices": [{"text": "y", "finish_reason": "stop"}]}), Answer("xy")),
        (events({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}, "[DONE]"), Answer("x")),
    ],
)
def test_a_stream_that_nobody_asked_for_is_read(stream: str, expected: Answer) -> None:
    for kind in ("text/event-stream", "application/json"):

        async def handler(_request: web.Request, kind: str = kind) -> web.Response:
            return web.Response(text=stream, content_type=kind)

        assert with_server(handler, ask) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (events({"error": {"message": "too much to do"}}), "too much to do"),
        (events(delta(content="half"), {"error": {"message": "too much to do"}}, "[DONE]"), "too much to do"),
        (events(delta(content="half"), '{"choices": [{"del'), "not JSON"),
        (events('"x"', "[DONE]"), "not an OpenAI-style answer"),
    ],
)
def test_an_error_in_a_stream_is_one(stream: str, expected: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text=stream, content_type="text/event-stream")

    with pytest.raises(LLMReplyError, match=expected):
        with_server(handler, ask)


TEXT, THOUGHT = {"type": "text", "text": "x"}, {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
MORE = [{"type": "output_text", "text": "y"}, "z", {"text": "!"}]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": [TEXT]}, Answer("x")),
        (
            {"content": [THOUGHT, TEXT, *MORE]},
            Answer("xyz!", has_reasoning=True),
        ),
        ({"content": [{"type": "reasoning", "text": "hm"}, TEXT]}, Answer("x", has_reasoning=True)),
        ({"content": [{"type": "image_url"}, 7, None, {"type": "text", "text": None}]}, Answer("")),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, Answer("no", finish_reason="content_filter")),
        ({"content": [], "reasoning": "hm"}, Answer("", has_reasoning=True)),
        ({"reasoning_content": "hm"}, Answer("", has_reasoning=True)),
        ({"content": {"text": "x"}}, Answer("x")),
        ({"content": None, "tool_calls": [{"id": "1"}]}, Answer("", finish_reason="tool_calls")),
        ({"content": "x", "tool_calls": [{"id": "1"}]}, Answer("x")),
        ({"content": TEXT}, Answer("x")),
        ({"content": [{"type": "text", "text": {"value": "x", "annotations": []}}]}, Answer("x")),
        ({"content": {"type": "text", "text": {"value": 7}}}, Answer("")),
        ({"content": THOUGHT}, Answer("", has_reasoning=True)),
        ({"content": {"type": "refusal", "refusal": "no"}}, Answer("no", finish_reason="content_filter")),
    ],
)
def test_the_texts_among_the_parts_are_the_answer(message: dict[str, Any], expected: Answer) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": message}]})

    assert with_server(handler, ask) == expected


@pytest.mark.parametrize("word", ["max_tokens", "MAX_TOKENS", "model_length"])
def test_other_words_for_cut(word: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": "x"}, "finish_reason": word}]})

    assert with_server(handler, ask).finish_reason == "length"


@pytest.mark.parametrize("prompt", ["NUL \0", "half \ud800 pair", "word " * 100_000])
def test_odd_prompts_arrive(prompt: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        content = (await request.json())["messages"][0]["content"]
        return web.json_response({"choices": [{"message": {"content": str(len(content))}}]})

    async def work(url: str) -> Answer:
        async with EndpointClient(url, "m") as client:
            return await client.complete(Request("chat", prompt, "m", 5, 0.5))

    assert with_server(handler, work) == Answer(str(len(prompt)))


def test_only_what_may_have_been_charged_for_counts_as_such() -> None:
    billed = {}
    for name, handler in {"cut": _cut, "hang": _hang, "html": _html, "500": _status(500), "502": _status(502)}.items():
        with pytest.raises(LLMError) as caught:
            with_server(handler, lambda url: ask(url, timeout=2))
        billed[name] = caught.value.billed
    assert billed == {"cut": True, "hang": True, "html": True, "500": False, "502": True}


@pytest.mark.parametrize("usage", ["lots", [1, 2], 7, None, {"prompt_tokens": "100"}])
def test_a_good_answer_survives_odd_accounts(usage: object) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"text": "good"}], "usage": usage})

    assert with_server(handler, ask) == Answer("good")


def test_proxies_are_honoured_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The proxy is a real one: what comes for a host that does not exist was sent by way of it."""
    seen: list[tuple[str, str | None, str | None]] = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        headers = request.headers
        seen.append((str(request.url), headers.get("Authorization"), headers.get("Proxy-Authorization")))
        if request.method == "CONNECT":
            return web.Response(status=403)
        return web.json_response({"choices": [{"message": {"content": "by proxy"}}]})

    async def work(url: str) -> Answer:
        runner = web.ServerRunner(web.Server(proxy))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://user:pass@127.0.0.1:{runner.addresses[0][1]}"
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        # A login for the very host must not take the place of the key.
        (tmp_path / "netrc").write_text("machine llm.example login me password secret")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        try:
            with pytest.raises(LLMReplyError, match="not JSON"):
                await ask(url)
            assert not seen
            assert "pass" not in str(vars(EndpointClient("http://llm.example/v1", "m").http)["_proxy"])
            monkeypatch.setenv("https_proxy", address)
            with pytest.raises(ConfigError, match="403"):
                await ask("https://llm.example/v1", key="key")
            assert seen.pop()[1:] == (None, "Basic dXNlcjpwYXNz")  # the key is not for the proxy
            return await ask("http://llm.example/v1", key="key")
        finally:
            await runner.cleanup()

    assert with_server(_html, work) == Answer("by proxy")
    assert seen[-1] == ("http://llm.example/v1/chat/completions", "Bearer key", "Basic dXNlcjpwYXNz")


def test_certificates_are_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")

    async def handle(_request: web.BaseRequest) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": "safe"}}]})

    async def work() -> str:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        url = f"https://localhost:{runner.addresses[0][1]}/v1"
        try:
            with pytest.raises(LLMRefused, match="certificate is not trusted.*SSL_CERT_FILE"):
                await ask(url)
            environment = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "authority.pem")}
            script = (
                "import sys, asyncio\nfrom tests.llm.clients.test_endpoint import ask\n"
                "print(asyncio.run(ask(sys.argv[1])).text)"
            )
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", script, url), env=environment, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await child.communicate()
            return out.decode().strip()
        finally:
            await runner.cleanup()

    assert asyncio.run(work()) == "safe"


def test_a_server_is_alive_if_it_answers_anything_but_garbage() -> None:
    async def alive(url: str) -> bool:
        client = EndpointClient(url, "m")
        async with client:
            client.address = url.replace("/v1", "/v1/later")
            return await client.is_alive()

    assert with_server(_html, alive)  # 404
    for models, expected in ((_status(503), False), (_status(429), True), (_status(401), True), (_html, False)):
        found = with_server(_html, _alive, models=models)
        assert found is expected, models


async def _alive(url: str) -> bool:
    client = EndpointClient(url, "m")
    client._check_model = _nothing  # type: ignore[method-assign]
    async with client:
        return await client.is_alive()


async def _nothing() -> None:
    pass
