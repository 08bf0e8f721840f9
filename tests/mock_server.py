"""An OpenAI-compatible server that fails on purpose, for benchmarks and tests.

    python -m tests.mock_server '{"latency": 0.1, "busy": 0.05}'

prints its address and serves until its standard input ends. An input is known by the `item-N` in its prompt; what
happens to it is drawn from the seed, the input and the number of the attempt, so every engine meets the same faults.
`GET /stats` tells what happened; `POST /outage?seconds=N` closes the port for a while.
"""

import asyncio
import json
import random
import re
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

WORDS = "amber basin cedar delta ember fjord grove haven inlet jetty knoll ledge marsh nadir oasis plume quarry ridge"
TEXT = random.Random(0).choices(WORDS.split(), k=10_000)
FAULTS = ("busy", "error", "malformed", "cut", "hang", "truncated")


@dataclass(frozen=True)
class Behaviour:
    """How the server answers. Rates are shares of the attempts.

    Attributes:
        latency: seconds that an answer takes.
        jitter: share of the latency by which it varies.
        capacity: requests it works on at once; more are refused with 429.
        busy, error, malformed, cut, hang, truncated: rates of 429 (at once), 500, JSON cut at 60 %, connection
            closed in the body, no answer for an hour, and `finish_reason` "length".
        retry_after: seconds that a 429 asks to wait, if any.
        rungs: ways to ask for JSON that it accepts.
        words: of each text it writes.
        seed: of everything that is drawn.
    """

    latency: float = 0.1
    jitter: float = 0.0
    capacity: int | None = None
    busy: float = 0.0
    error: float = 0.0
    malformed: float = 0.0
    cut: float = 0.0
    hang: float = 0.0
    truncated: float = 0.0
    retry_after: float | None = None
    rungs: tuple[str, ...] = ("json_schema", "json_object")
    words: int = 20
    seed: int = 1


@dataclass
class Stats:
    """What happened. Seconds are those of the server's own clock."""

    requests: int = 0
    answered: int = 0
    """Whole, well-formed answers."""
    again: int = 0
    """Whole answers for an input that had one already: paid for twice."""
    tokens: int = 0
    """Billed: of all answers that left, whole or not."""
    completion_tokens: int = 0
    """Those of the tokens that were written."""
    most_under_way: int = 0
    first_request: float = 0.0
    last_answer: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


class MockServer:
    """The server; `url` ends in `/v1` as base URLs do."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.stats = Stats()
        self.bodies: list[dict[str, Any]] = []
        """The bodies of the last requests."""
        self.under_way = 0
        self._attempts: Counter[str] = Counter()
        self._answered: set[str] = set()
        self._port = 0

    async def __aenter__(self) -> "MockServer":
        self._server = web.Server(self._handle)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await self._site.start()
        self._port = self._runner.addresses[0][1]

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    async def fall_silent(self, seconds: float) -> None:
        """Close the port and all connections, and come back after a while."""
        await self._site.stop()
        for connection in self._server.connections:
            if connection.transport:
                connection.transport.abort()
        await asyncio.sleep(seconds)
        await self._listen()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.path.removeprefix("/v1"):
            case "/models":
                return web.json_response({"data": [{"id": "mock"}, {"id": "gpt-4o-mini"}]})
            case "/stats":
                return web.json_response(vars(self.stats))
            case "/outage":
                self._outage = asyncio.create_task(self.fall_silent(float(request.query["seconds"])))
                return web.json_response({})
            case "/chat/completions" | "/completions":
                return await self._complete(request)
        return web.json_response({"error": {"message": "not here"}}, status=404)

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.json()
        self.bodies = [*self.bodies[-9:], body]
        rung = body.get("response_format", {}).get("type")
        if rung and rung not in self.behaviour.rungs:
            return web.json_response({"error": {"message": f"response_format {rung} is not supported"}}, status=400)
        self.under_way += 1
        self.stats.most_under_way = max(self.stats.most_under_way, self.under_way)
        try:
            return await self._answer(request, body)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.BaseRequest, body: dict[str, Any]) -> web.StreamResponse:
        now, stats, behaviour = time.time(), self.stats, self.behaviour
        stats.requests += 1
        messages = body.get("messages", [{"content": body.get("prompt", "")}])
        prompt = messages[-1]["content"] if messages else ""  # some engines probe with no message at all
        found = re.findall(r"item-\d+", prompt if isinstance(prompt, str) else json.dumps(prompt))
        name = found[-1] if found else "probe"
        if found:  # engines that probe first do so outside of the window
            stats.first_request = stats.first_request or now
        self._attempts[name] += 1
        draw = random.Random(zlib.crc32(f"{behaviour.seed}-{name}-{self._attempts[name]}".encode()))
        fault = self._fault(draw) if found else None
        if fault:
            stats.faults[fault] += 1
        if fault == "busy":
            headers = {} if behaviour.retry_after is None else {"Retry-After": str(behaviour.retry_after)}
            return web.json_response({"error": {"message": "too many requests"}}, status=429, headers=headers)
        await asyncio.sleep(
            3600 if fault == "hang" else behaviour.latency * draw.uniform(1 - behaviour.jitter, 1 + behaviour.jitter)
        )
        if fault == "error":
            return web.json_response({"error": {"message": "it broke"}}, status=500)
        text = self._text(body, name)
        if fault == "malformed":
            text = text[: int(0.6 * len(text))]
        usage = {
            "prompt_tokens": len(str(prompt)) // 4,
            "completion_tokens": min(len(text) // 4, body.get("max_tokens", 10**6)),
        }
        stats.tokens += sum(usage.values())
        stats.completion_tokens += usage["completion_tokens"]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if fault == "truncated" else "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }
        if fault == "cut":
            return await self._break_off(request, reply)
        if fault is None:
            stats.answered += 1
            stats.again += bool(found) and name in self._answered
            self._answered.add(name)
        stats.last_answer = time.time()
        return web.json_response(reply)

    def _fault(self, draw: random.Random) -> str | None:
        if self.behaviour.capacity is not None and self.under_way > self.behaviour.capacity:
            return "busy"
        value = draw.random()
        for fault in FAULTS:
            value -= getattr(self.behaviour, fault)
            if value < 0:
                return fault
        return None

    def _text(self, body: dict[str, Any], name: str) -> str:
        """An object as the schema or the prompt wants it; else plain words."""
        wanted = body.get("response_format", {})
        if wanted.get("type") == "json_schema":
            return json.dumps(self._value(wanted["json_schema"]["schema"], wanted["json_schema"]["schema"], name))
        prompt = json.dumps(body.get("messages") or body.get("prompt"))
        fields = dict.fromkeys(re.findall(r'\\"(\w+)\\": *\\"\.\.\.', prompt))
        if fields:
            return json.dumps({field: self._words(f"{name}-{field}") for field in fields})
        return self._words(name)

    def _value(self, schema: dict[str, Any], root: dict[str, Any], name: str) -> Any:
        if "$ref" in schema:
            return self._value(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root, name)
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                return {key: self._value(value, root, f"{name}-{key}") for key, value in schema["properties"].items()}
            case "array":
                return [self._value(schema["items"], root, f"{name}-{i}") for i in range(schema.get("minItems", 4))]
            case "integer" | "number":
                return 1
            case _:
                return self._words(name)

    def _words(self, name: str) -> str:
        start = zlib.crc32(name.encode()) % (len(TEXT) - self.behaviour.words)
        return " ".join(TEXT[start : start + self.behaviour.words])

    async def _break_off(self, request: web.BaseRequest, reply: dict[str, Any]) -> web.StreamResponse:
        content = json.dumps(reply).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(content)), "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        if request.transport:
            request.transport.close()
        return response


async def _serve(behaviour: Behaviour) -> None:
    async with MockServer(behaviour) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    if "rungs" in settings:
        settings["rungs"] = tuple(settings["rungs"])
    asyncio.run(_serve(replace(Behaviour(), **settings)))
