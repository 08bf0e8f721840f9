"""Synthesis against a server that fails on purpose, from the command line, as a user would meet it."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_objects
from multigrain.llm import retry_policy, revival
from tests import warm
from tests.mock_server import Behaviour, MockServer

INPUTS = 200
ASKED = 190
"""Those that are not held out."""
Serve = Callable[[MockServer], MockServer]


@pytest.fixture
def toml(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Path:
    write_jsonl(
        "pairs.jsonl", [{"query": f"what is item-{i} good for", "positive": f"item-{i} is good"} for i in range(INPUTS)]
    )
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
name = "asking"
output = "{tmp_path}/runs"
[data]
pairs = "pairs.jsonl"
held_out = 0.05
[llm]
provider = "endpoint"
base_url = "http://127.0.0.1:9/v1"
model = "mock"
max_concurrency = 16
[synthesis]
prompt_style = "all-grades"
[mining]
enabled = false
"""
    )
    return path


def arguments(toml: Path, server: MockServer, *more: str) -> list[str]:
    return ["synthesize", str(toml), "--set", f"llm.base_url={server.url}", *more]


def candidates(toml: Path) -> bytes:
    return (load_config(toml).folder / "synthesis" / "candidates.jsonl").read_bytes()


def parked(toml: Path) -> list[dict[str, Any]]:
    return [fields for _, fields in read_objects(load_config(toml).folder / "synthesis" / "parked.jsonl")]


FAULTS = Behaviour(latency=0.01, busy=0.05, error=0.05, malformed=0.05, cut=0.05, truncated=0.05)


def test_with_a_fifth_of_all_requests_failing_nothing_is_lost(
    serve: Serve, toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(MockServer(FAULTS))
    assert main(arguments(toml, server, "--progress", "json")) == 0
    assert candidates(toml).count(b"\n") == ASKED * 4
    assert server.stats.again == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"message": "data ..."}
    last = [line for line in lines if "work" in line][-1]
    assert {
        "work": "writing negatives",
        "done": ASKED,
        "total": ASKED,
        "left": 0,
        "parked": 0,
        "under_way": 0,
    }.items() <= last.items()
    assert last["requests"] == server.stats.requests
    assert last["tokens"] >= server.stats.tokens
    assert "times)" in last["most_often"]


@pytest.mark.slow
def test_kill_9_at_random_moments(serve: Serve, toml: Path, tmp_path: Path) -> None:
    """Each kill costs at most the requests under way, and the files are those of an undisturbed run."""
    quiet = serve(MockServer(FAULTS))
    assert main(arguments(toml, quiet, "--quiet")) == 0
    expected = candidates(toml)
    (tmp_path / "runs").rename(tmp_path / "undisturbed")
    server = serve(MockServer(FAULTS))
    draw = random.Random(5)
    for _ in range(4):
        before = server.stats.again
        answered = server.stats.answered
        process = warm.start(*arguments(toml, server, "--quiet"))
        until = answered + draw.randint(1, 45)
        while server.stats.answered < until and process.is_alive():
            time.sleep(0.001)
        process.kill()
        process.join()
        assert server.stats.again - before <= 16
    assert main(arguments(toml, server, "--quiet")) == 0
    assert server.stats.again <= 4 * 16
    assert candidates(toml) == expected


class Hostile(MockServer):
    """Each input whose number is a multiple of seven meets the same misdeed for ever."""

    async def _answer(self, request: web.BaseRequest, body: dict[str, Any]) -> web.StreamResponse:
        prompt = body["messages"][-1]["content"]
        number = int(prompt.rpartition("item-")[2].split()[0]) if "item-" in prompt else 1
        if number % 7:
            return await super()._answer(request, body)
        match number // 7 % 7:
            case 0:
                return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
            case 1:
                return web.Response(body=b" " * 5 * 2**20)
            case 2:
                return web.json_response({"choices": [{"message": {"content": '{"grade_1": 7, "grade_9": "?"}'}}]})
            case 3:
                return web.json_response({"choices": [{"message": {"refusal": "I will not", "content": None}}]})
            case 4:
                return web.json_response({"error": {"message": "context too long"}}, status=400)
            case 5:
                return web.Response(text="data: {}\n\n", content_type="text/event-stream")
            case _:
                assert request.transport
                request.transport.close()
                return web.Response()


def test_a_hostile_server(
    serve: Serve, toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry_policy, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(revival, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(revival, "SUSPECT_AFTER", 0.1)
    server = serve(Hostile(Behaviour(latency=0.001)))
    assert main(arguments(toml, server)) == 3
    captured = capsys.readouterr()
    reasons = parked(toml)
    assert len(reasons) + candidates(toml).count(b"\n") // 4 == ASKED
    assert {fields["reason"] for fields in reasons} == {"unreadable", "declined", "rejected", "transport"}
    for detail in (
        "not JSON: '<html>",
        "longer than",
        'no usable "grade_1"',
        "I will not",
        "context too long",
        "breaks of",
    ):
        assert any(detail in fields["detail"] for fields in reasons), detail
    assert "without an answer: transport " in captured.err
    assert "synthesize RUN.toml --retry REASON" in captured.err

    # The server has been mended; now only what was declined is asked again, then the rest.
    server.__class__ = MockServer
    asked = server.stats.requests
    declined = sum(fields["reason"] == "declined" for fields in reasons)
    assert main(arguments(toml, server, "--retry", "declined", "--set", "synthesis.max_parked=1.0")) == 0
    assert server.stats.requests - asked == declined
    assert main(arguments(toml, server, "--retry", "all")) == 0
    assert parked(toml) == []
    assert main(arguments(toml, server, "--retry", "transport")) == 2
    assert 'no input is parked for "transport"; parked: none.' in capsys.readouterr().err


@pytest.mark.parametrize(("cap", "value"), [("max_requests", 50), ("max_tokens", 20_000), ("max_cost", 0.01)])
def test_a_cap_holds_for_the_folder_and_can_be_raised(serve: Serve, toml: Path, cap: str, value: float) -> None:
    server = serve(MockServer(Behaviour(latency=0.001)))
    prices = ["--set", "llm.prices={input=1.0, output=1.0}"]

    def spent() -> float:
        return {"max_requests": server.stats.requests, "max_tokens": server.stats.tokens}.get(
            cap, server.stats.tokens * 1e-6
        )

    for arguments_more in ([], ["--retry", "budget"]):  # the second command has nothing to spend either
        assert main(arguments(toml, server, "--set", f"llm.{cap}={value}", *prices, *arguments_more)) == 3
        assert 0.5 * value < spent() <= value
    assert all(cap in fields["detail"] for fields in parked(toml))
    assert main(arguments(toml, server, "--set", f"llm.{cap}={value * 100}", *prices, "--retry", "budget")) == 0
    assert parked(toml) == []
    assert server.stats.again == 0


def test_no_server_is_needed_for_what_was_answered(serve: Serve, toml: Path) -> None:
    server = serve(MockServer(Behaviour(latency=0.001)))
    assert main(arguments(toml, server)) == 0
    expected = candidates(toml)
    (load_config(toml).folder / "manifest.json").unlink()
    assert main(["synthesize", str(toml), "--force"]) == 0  # its base_url leads nowhere
    assert candidates(toml) == expected


def test_several_servers_share_the_work(serve: Serve, toml: Path) -> None:
    servers = [serve(MockServer(Behaviour(latency=0.005))) for _ in range(2)]
    urls = json.dumps([server.url for server in servers])
    assert main(["synthesize", str(toml), "--set", f"llm.base_url={urls}"]) == 0
    assert candidates(toml).count(b"\n") == ASKED * 4
    assert min(server.stats.answered for server in servers) > 50


class Held(MockServer):
    """It answers no input before it is let go."""

    is_let_go = False

    async def _answer(self, request: web.BaseRequest, body: dict[str, Any]) -> web.StreamResponse:
        while "item-" in body["messages"][-1]["content"] and not self.is_let_go:
            await asyncio.sleep(0.01)
        return await super()._answer(request, body)


@contextmanager
def synthesis_under_way(toml: Path, server: MockServer) -> Iterator[BaseProcess]:
    """Another process, which waits for the answers to sixteen inputs; at the end it is killed if it is still there."""
    process = warm.start(*arguments(toml, server, "--quiet"))
    try:
        while server.under_way < 16:
            assert process.is_alive()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_process_is_refused(serve: Serve, toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Held(Behaviour(latency=0.001))
    with synthesis_under_way(toml, serve(server)) as first:
        assert main(arguments(toml, server)) == 2
        assert "another multigrain process is using this folder" in capsys.readouterr().err
        server.is_let_go = True
        first.join()
        assert first.exitcode == 0
    assert server.stats.again == 0


def test_the_key_is_nowhere_on_disk(serve: Serve, toml: Path, tmp_path: Path) -> None:
    server = serve(MockServer(Behaviour(latency=0.001, error=0.2)))
    environment = {**os.environ, "MY_KEY": "sk-topsecret"}
    command = arguments(toml, server, "--debug", "--set", "llm.api_key_env=MY_KEY")
    done = subprocess.run([sys.executable, "-m", "multigrain", *command], env=environment, capture_output=True)
    assert done.returncode == 0
    assert b"topsecret" not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert files
    assert not any(b"topsecret" in path.read_bytes() for path in files)


def test_check_tells_prompt_tokens_and_cost_before_anything_is_spent(
    serve: Serve, toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(MockServer(Behaviour(latency=0.001)))
    settings = ["--set", f"llm.base_url={server.url}", "--set", "llm.prices={input=100.0, output=100.0}"]
    assert main(["check", str(toml), *settings, "--set", "llm.max_cost=9"]) == 0
    out = capsys.readouterr().out
    assert f"asking      {ASKED} requests, about" in out
    assert "never more than llm.max_cost = 9 in this run folder; so far 0 calls" in out
    assert "| Query: what is item-" in out
    assert server.stats.requests == 0
    assert main(["synthesize", str(toml), *settings]) == 0
    assert main(["check", str(toml), *settings]) == 0
    # Now the answers themselves tell what the run takes: what the server billed.
    after = capsys.readouterr().out
    assert f"estimated from the {ASKED + 1} calls answered so far" in after
    cost = float(after.partition("about $")[2].split()[0])
    assert cost == pytest.approx(server.stats.tokens * 100e-6, rel=0.02)


def test_a_cap_on_an_unknown_price_is_refused(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "llm.base_url=https://llm.example/v1", "--set", "llm.max_cost=1"]
    assert main(["synthesize", str(toml), *settings]) == 2
    assert 'the price of "mock" is unknown; set llm.prices' in capsys.readouterr().err


def test_a_cap_of_nothing_leaves_files_and_advice(serve: Serve, toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(MockServer(Behaviour(latency=0.001)))
    assert main(arguments(toml, server, "--set", "llm.max_requests=0", "--progress", "json")) == 1
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert f"none of the {ASKED} inputs has a usable answer" in last["error"]
    assert last["error"].endswith("multigrain synthesize RUN.toml --retry budget")
    assert len(parked(toml)) == ASKED
    assert main(arguments(toml, server, "--retry", "budget")) == 0
    assert parked(toml) == []


def test_check_may_look_while_synthesis_waits(serve: Serve, toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with synthesis_under_way(toml, serve(Held())) as first:
        assert main(["check", str(toml)]) == 0
        assert first.is_alive(), "check waited for the synthesis to end"
        assert "so far" not in capsys.readouterr().err


def test_where_the_answer_limit_is_raised_only_the_cut_ones_are_asked_again(serve: Serve, toml: Path) -> None:
    class Long(MockServer):
        """Inputs whose number is a multiple of ten need more than 5,000 tokens."""

        def _fault(self, draw: random.Random) -> str | None:
            body = self.bodies[-1]
            number = int(body["messages"][-1]["content"].rpartition("item-")[2].split()[0])
            return "truncated" if number % 10 == 0 and body["max_tokens"] < 5000 else None

    server = serve(Long(Behaviour(latency=0.001)))
    assert main(arguments(toml, server)) == 0
    cut = [fields for fields in parked(toml) if fields["reason"] == "length"]
    assert len(cut) == len(parked(toml)) > 10
    asked = server.stats.requests
    assert main(arguments(toml, server, "--set", "synthesis.answer_tokens=6000", "--retry", "length")) == 0
    assert parked(toml) == []
    assert server.stats.requests == asked + len(cut)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("llm.example/v1", "wanted http(s)://HOST"),
        ("http://[::1/v1", "Invalid IPv6 URL"),
        ("http://h:abc/v1", "Port could not be cast"),
        ("http://h:99999/v1", "Port out of range"),
        ("https://me:sk-secret@h/v1", "without login or query"),
        ("http://h/v1?key=1", "without login or query"),
        ("http://h/v 1", "without login or query"),
        ('["http://h/v1", "http://h/v1/"]', "names a server twice"),
    ],
)
def test_wrong_addresses_are_told_before_anything_begins(
    toml: Path, capsys: pytest.CaptureFixture[str], url: str, expected: str
) -> None:
    assert main(["check", str(toml), "--set", f"llm.base_url={url}"]) == 2
    assert expected in capsys.readouterr().err
