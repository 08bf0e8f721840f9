"""Which rung of the ladder each kind of server is found on, with real requests over HTTP."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from multigrain.config import LLMSection
from multigrain.errors import LLMRefused, LLMUnavailable
from multigrain.llm import probe
from multigrain.llm.budget import Budget
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Tally
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Request
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from multigrain.llm.structured import schema_of
from multigrain.synthesis.parse import all_grades_reader, answer_model, read_query
from tests.mock_server import Behaviour, MockServer

PROMPT = 'Query: item-{}. Answer with one JSON object and nothing else: {{"grade_1": "...", "grade_2": "..."}}'


def inputs(count: int) -> list[Prompted[Any]]:
    schema, read = schema_of(answer_model((1, 2))), all_grades_reader((1, 2))
    return [
        Prompted(f"p{i}", Request("chat", PROMPT.format(i), "mock", 100, 0.5, schema=schema), read)
        for i in range(count)
    ]


def run(
    path: Path, server: MockServer, count: int = 5, **caps: int
) -> tuple[Tally, Dialect | None, list[dict[str, Any]]]:
    async def work() -> Tally:
        async with server:
            with AnswerStore(path) as store:
                budget = Budget(LLMSection.model_validate(caps), None, store.spent())
                return await answer_all([EndpointClient(server.url, "mock")], inputs(count), store, budget)

    tally = asyncio.run(work())
    with AnswerStore(path) as store:
        return tally, store.dialect(server.url, "mock"), server.bodies


class Lying(MockServer):
    """Takes a schema and ignores it."""

    def _text(self, body: dict[str, Any], name: str) -> str:
        if name == "probe" and body.get("response_format", {}).get("type") == "json_schema":
            return "Blue, I think."
        return super()._text(body, name)


class Wordy(MockServer):
    """Names the parameter at the end of a long message, after the like of a request's id."""

    async def _complete(self, request: Any) -> Any:
        body = await request.json()
        if "seed" in body:
            said = {"trace": "0" * 1000, "detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
            said["takes"] = ["max_tokens", "temperature"]
            return web.json_response(said, status=422)
        return await super()._complete(request)


class Picky(MockServer):
    """Refuses parameters, each with a message like OpenAI's."""

    refused: tuple[str, ...] = ("max_tokens", "temperature")

    async def _complete(self, request: Any) -> Any:
        body = await request.json()
        for name in self.refused:
            if name in body:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                return web.json_response({"error": {"message": message}}, status=400)
        return await super()._complete(request)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (MockServer(Behaviour(latency=0)), Dialect("json_schema")),
        (MockServer(Behaviour(latency=0, rungs=("json_object",))), Dialect("json_object")),
        (MockServer(Behaviour(latency=0, rungs=())), Dialect("text")),
        (Lying(Behaviour(latency=0)), Dialect("json_object")),
        (
            Picky(Behaviour(latency=0)),
            Dialect(renamed=(("max_tokens", "max_completion_tokens"), ("temperature", None))),
        ),
        (Wordy(Behaviour(latency=0)), Dialect(renamed=(("seed", None),))),
    ],
    ids=["schema", "object", "text", "lying", "picky", "wordy"],
)
def test_each_server_is_found_on_its_rung(tmp_path: Path, server: MockServer, expected: Dialect) -> None:
    tally, dialect, bodies = run(tmp_path / "store.sqlite", server)
    assert (tally.answered, tally.parked) == (5, 0)
    assert dialect == expected
    if len(expected.renamed) > 1:
        assert bodies[-1]["max_completion_tokens"] == 100
        assert not {"max_tokens", "temperature"} & bodies[-1].keys()


def test_a_server_that_refuses_the_schema_keeps_its_parameters(tmp_path: Path) -> None:
    """It names what it takes instead, which is no reason to do without."""

    class Helpful(MockServer):
        async def _complete(self, request: Any) -> Any:
            if "response_format" in (body := await request.json()):
                said = f"Unknown: response_format. Known: model, messages, max_tokens, seed, temperature. {body}"
                return web.json_response({"error": {"message": said}}, status=400)
            return await super()._complete(request)

    _, dialect, _ = run(tmp_path / "store.sqlite", Helpful(Behaviour(latency=0)))
    assert dialect == Dialect("text")


@pytest.mark.parametrize("refused", [("stop",), ("max_tokens", "stop", "seed")])
def test_a_server_that_refuses_stop_texts_is_asked_without(tmp_path: Path, refused: tuple[str, ...]) -> None:
    server = Picky(Behaviour(latency=0))
    server.refused = refused
    queries = [Prompted(f"p{i}", Request("chat", f"item-{i}", "mock", 8, 0.5, ("\n",)), read_query) for i in range(5)]

    async def work() -> Tally:
        async with server:
            budget = Budget(LLMSection(), None, store.spent())
            return await answer_all([EndpointClient(server.url, "mock")], queries, store, budget)

    with AnswerStore(tmp_path / "store.sqlite") as store:
        tally = asyncio.run(work())
        known = store.dialect(server.url, "mock")
    assert (tally.answered, tally.parked) == (5, 0)
    assert known and ("stop", None) in known.renamed and not known.thinks


def test_one_probe_for_a_server_and_model(tmp_path: Path) -> None:
    server = MockServer(Behaviour(latency=0))
    run(tmp_path / "store.sqlite", server)
    assert server.stats.requests == 6
    tally, _, _ = run(tmp_path / "store.sqlite", server, 8)  # the same port again, and more inputs
    assert tally.sent == 3


def test_the_probe_counts_against_the_caps(tmp_path: Path) -> None:
    server = MockServer(Behaviour(latency=0))
    tally, dialect, _ = run(tmp_path / "store.sqlite", server, max_requests=0)
    assert (server.stats.requests, tally.parked, dialect) == (0, 5, None)  # nothing was learnt, nothing is kept
    tally, dialect, _ = run(tmp_path / "other.sqlite", server, max_requests=3)
    assert (server.stats.requests, tally.answered, tally.parked) == (3, 2, 3)


def test_a_server_that_refuses_everything_is_told_at_once(tmp_path: Path) -> None:
    server = Picky(Behaviour(latency=0))
    server.refused = ("messages",)
    with pytest.raises(LLMRefused, match="'messages' is not supported"):
        run(tmp_path / "store.sqlite", server)


@pytest.mark.parametrize(("status", "times"), [(429, 6), (503, 3), (502, 2)])
def test_a_busy_start_says_nothing_about_the_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, times: int
) -> None:
    """A server that is still loading must not lose its schema for the rest of the run."""
    monkeypatch.setattr(probe, "LONGEST_WAIT", 0.01)

    class Loading(MockServer):
        left = times

        async def _complete(self, request: Any) -> Any:
            if self.left:
                self.left -= 1
                return web.json_response({"error": "later"}, status=status)
            return await super()._complete(request)

    tally, dialect, _ = run(tmp_path / "store.sqlite", Loading(Behaviour(latency=0)))
    assert (tally.answered, dialect) == (5, Dialect("json_schema"))


def test_a_server_that_never_answers_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(probe, "PATIENCE", 0.1)
    with pytest.raises(LLMUnavailable, match="HTTP 503"):
        run(tmp_path / "store.sqlite", Refusing(Behaviour(latency=0)))


def test_the_probe_does_not_hammer_a_server_that_says_retry_after_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PATIENCE", 0.5)
    server = Refusing(Behaviour(latency=0))
    with pytest.raises(LLMUnavailable, match="HTTP 503"):
        run(tmp_path / "store.sqlite", server)
    assert server.asked < 15


class Refusing(MockServer):
    asked = 0

    async def _complete(self, request: Any) -> Any:
        self.asked += 1
        return web.json_response({"error": "later"}, status=503, headers={"Retry-After": "0"})
