"""Real servers on 127.0.0.1 for the tests of HTTP clients: what they answer, well or badly."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.protocol import Answer, Request

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


def events(*data: Any, start: str = "data: ", end: str = "\n\n") -> str:
    """A stream, as servers send it."""
    return "".join(f"{start}{item if isinstance(item, str) else json.dumps(item)}{end}" for item in data)


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}], "usage": None}


async def html(_request: web.Request) -> web.Response:
    return web.Response(text="<html>Welcome</html>", content_type="text/html")


async def no_choices(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list"})


async def huge(_request: web.Request) -> web.Response:
    return web.Response(body=b"x" * (5 * 2**20))


async def hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport
    request.transport.close()
    return response


async def stream(_request: web.Request) -> web.Response:
    return web.Response(text=events(delta(content="half")), content_type="text/event-stream")


async def endless(request: web.Request) -> web.StreamResponse:
    """100 MB, and more to come."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b"x" * 2**20)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.1)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


async def nested(_request: web.Request) -> web.Response:
    return web.Response(text="[" * 10**6, content_type="application/json")


async def elsewhere(_request: web.Request) -> web.Response:
    return web.Response(status=307, headers={"Location": "http://evil.example/"})


def with_status(status: int, text: str = "because", **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return handler


async def good(_request: web.Request) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": "good"}}]})
