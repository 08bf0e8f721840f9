from pathlib import Path

import pytest
from aiohttp import web

from multigrain.errors import ConfigError, LLMReplyError
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.protocol import Answer
from tests.llm.clients.local_server import ask, html, with_server


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

    assert with_server(html, work) == Answer("by proxy")
    assert seen[-1] == ("http://llm.example/v1/chat/completions", "Bearer key", "Basic dXNlcjpwYXNz")
