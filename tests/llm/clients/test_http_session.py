import asyncio
import os
import ssl
import sys
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from multigrain.errors import LLMRefused
from tests.llm.clients.local_server import ask


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
                "import sys, asyncio\nfrom tests.llm.clients.local_server import ask\n"
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
