"""Replies as servers send them, over HTTP."""

from typing import Any

import pytest
from aiohttp import web

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Answer
from tests.llm.clients.local_server import ask, delta, events, with_server


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


@pytest.mark.parametrize("usage", ["lots", [1, 2], 7, None, {"prompt_tokens": "100"}])
def test_a_good_answer_survives_odd_accounts(usage: object) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"text": "good"}], "usage": usage})

    assert with_server(handler, ask) == Answer("good")
