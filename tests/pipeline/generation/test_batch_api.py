"""The Batch API from the command line, against a real server with `/files` and `/batches`, and by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_objects
from multigrain.llm import batch_files
from multigrain.llm.store import AnswerStore
from tests.mock_server import Behaviour, MockServer


class BatchServer(MockServer):
    """Answers batches as soon as it is asked for their state, but for what is `missing` or `broken`."""

    def __init__(self, has_batches: bool = True) -> None:
        super().__init__(Behaviour(latency=0))
        self.has_batches = has_batches
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.missing: set[int] = set()
        self.broken: set[int] = set()
        self.state = "completed"
        self.lose_next_reply = False
        self.pages = 0
        self.pages_by_id = True

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.removeprefix("/v1/").split("/")
        if parts[0] not in ("files", "batches") or not self.has_batches:
            return await super()._handle(request)
        if request.method == "GET" and parts[0] == "files":
            return web.Response(body=self.files[parts[1]])
        if request.method == "GET":
            return web.json_response(self._state(parts[1]) if len(parts) > 1 else self._page(request))
        if parts[0] == "files":
            form = await request.post()
            assert form["purpose"] == "batch"
            file = form["file"]
            assert isinstance(file, web.FileField)
            return self._added(self.files, "file", file.file.read())
        wanted = await request.json()
        reply = self._added(self.batches, "batch", {**wanted, "status": "in_progress"})
        if self.lose_next_reply:
            self.lose_next_reply = False
            assert request.transport
            request.transport.abort()
        return reply

    def _page(self, request: web.BaseRequest) -> dict[str, Any]:
        """The newest first, and no more at once than OpenAI gives."""
        self.pages += 1
        ids = list(self.batches)[::-1]
        start = ids.index(request.query["after"]) + 1 if self.pages_by_id and "after" in request.query else 0
        page = ids[start : start + int(request.query["limit"])]
        return {"data": [self.batches[id] for id in page], "has_more": start + len(page) < len(ids)}

    def _added(self, items: dict[str, Any], kind: str, item: Any) -> web.Response:
        id = f"{kind}-{len(items)}"
        items[id] = {**item, "id": id} if isinstance(item, dict) else item
        return web.json_response({"id": id})

    def _state(self, id: str) -> dict[str, Any]:
        made = self.batches[id]
        if self.state in batch_files.ENDED and "output_file_id" not in made:
            output, errors = [], []
            for number, line in enumerate(self.files[made["input_file_id"]].splitlines()):
                asked = json.loads(line)
                if number in self.broken:
                    errors.append({"custom_id": asked["custom_id"], "response": {"status_code": 500, "body": {}}})
                elif number not in self.missing:
                    body = self._reply(asked["body"])
                    output.append({"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": body}})
            for field, lines in (("output_file_id", output), ("error_file_id", errors)):
                made[field] = f"{id}-{field}"
                self.files[made[field]] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return {**made, "status": self.state, "request_counts": {"completed": 1, "failed": 2}}

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"content": self._text(body, body["messages"][0]["content"])}
        usage = {"prompt_tokens": 10, "completion_tokens": 20}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def command(run_toml: Path) -> Any:
    def run(url: str, *arguments: str, verb: str = "synthesize") -> int:
        settings = ["llm.provider=endpoint", f"llm.base_url={url}", "llm.model=mock", "mining.enabled=false"]
        settings.append("synthesis.prompt_style=all-grades")
        return main([verb, str(run_toml), *(item for s in settings for item in ("--set", s)), *arguments])

    return run


def store_of(run_toml: Path) -> Path:
    return load_config(run_toml).folder / "synthesis" / "store.sqlite"


def test_submit_status_ingest(serve: Any, command: Any, run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(BatchServer())
    server.state, server.missing, server.broken = "in_progress", {3}, {5}
    assert command(server.url, "--batch", "status") == 0
    assert "there are no batches; --batch submit creates them" in capsys.readouterr().out
    assert command(server.url, "--batch", "submit") == 0
    assert "batch-0001: 30 requests, submitted as batch-0" in capsys.readouterr().out
    asked = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert {line["url"] for line in asked} == {"/v1/chat/completions"} == {server.batches["batch-0"]["endpoint"]}
    assert len({line["custom_id"] for line in asked}) == 30
    assert asked[0]["body"]["response_format"]["type"] == "json_schema"

    assert command(server.url, "--batch", "submit") == 0
    assert "nothing to submit" in capsys.readouterr().out
    assert command(server.url) == 2  # would pay twice
    assert "30 inputs are in a batch. First ingest its answers" in capsys.readouterr().err
    assert command(server.url, "--batch", "ingest") == 0
    assert "batch-0001: still in_progress" in capsys.readouterr().out

    server.state = "completed"
    assert command(server.url, "--batch", "status") == 0
    assert "batch-0001: 30 requests, completed (1 done, 2 failed)" in capsys.readouterr().out
    for expected in ("batch-0001: 28 answers to 30 requests", "no batch to ingest"):
        assert command(server.url, "--batch", "ingest") == 0
        assert expected in capsys.readouterr().out
    sent = server.stats.requests
    assert command(server.url) == 0
    assert server.stats.requests == sent + 2  # only what the batch did not answer
    assert len(list(read_objects(load_config(run_toml).folder / "synthesis" / "candidates.jsonl"))) == 30 * 4
    with AnswerStore(store_of(run_toml)) as store:
        assert store.spent().calls == 30 + 2 + 1
        assert store.spent().completion_tokens < 28 * 20 + 3 * 400


def test_stopped_between_the_batch_and_its_note(serve: Any, command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The server has begun, and we do not know: the next submit finds the batch, and does not pay for another."""
    server = serve(BatchServer())
    server.lose_next_reply = True
    assert command(server.url, "--batch", "submit") == 1
    assert command(server.url, "--batch", "submit") == 0
    assert "submitted as batch-0" in capsys.readouterr().out
    assert len(server.batches) == len(server.files) == 1


@pytest.mark.parametrize("pages_by_id", [True, False])
def test_an_old_batch_is_not_paid_again(
    serve: Any, command: Any, capsys: pytest.CaptureFixture[str], pages_by_id: bool
) -> None:
    """Hundreds of others were begun since; a server that always gives its first page is not asked forever."""
    server = serve(BatchServer())
    server.lose_next_reply, server.pages_by_id = True, pages_by_id
    assert command(server.url, "--batch", "submit") == 1
    assert server.pages == 0  # what was just uploaded is in no batch yet
    server.batches |= {f"other-{i}": {"id": f"other-{i}", "input_file_id": f"file-x{i}"} for i in range(250)}
    assert command(server.url, "--batch", "submit") == 0
    assert ("submitted as batch-0" in capsys.readouterr().out) is pages_by_id
    assert (server.pages, len(server.batches)) == ((3, 251) if pages_by_id else (2, 252))


def test_by_hand(serve: Any, command: Any, run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server without batches, then none at all: the files go to `vllm run-batch` and come back."""
    server = serve(BatchServer(has_batches=False))
    assert command(server.url, "--batch", "submit") == 0
    out = capsys.readouterr().out
    folder = load_config(run_toml).folder / "synthesis" / "batches"
    assert f"vllm run-batch -i {folder}/batch-0001.jsonl -o {folder}/batch-0001.output.jsonl" in out
    assert command(server.url, "--batch", "ingest") == 0
    assert "batch-0001.output.jsonl does not exist yet" in capsys.readouterr().out
    asked = [fields for _, fields in read_objects(folder / "batch-0001.jsonl")]
    with (folder / "batch-0001.output.jsonl").open("w") as file:
        for line in asked[:20]:
            reply = {"status_code": 200, "body": server._reply(line["body"])}
            file.write(json.dumps({"custom_id": line["custom_id"], "response": reply, "error": None}) + "\n")
        file.write(json.dumps({"custom_id": "somebody else's", "response": reply}) + "\n")
    nowhere = "http://127.0.0.1:9/v1"
    assert command(nowhere, "--batch", "status") == 0
    assert "batch-0001.output.jsonl exists" in capsys.readouterr().out
    assert command(nowhere, "--batch", "ingest") == 0
    assert "20 answers to 30 requests ingested; 10 are not in" in capsys.readouterr().out
    with (folder / "batch-0001.output.jsonl").open("a") as file:  # the engine had not been through
        file.write('{"custom_id": cut\n[]\n')
        for line in asked[15:25]:
            bad = {"custom_id": line["custom_id"], "response": {"status_code": 500, "body": "x"}}
            good = {
                "custom_id": line["custom_id"],
                "response": {"status_code": 200, "body": server._reply(line["body"])},
            }
            file.write(f"{json.dumps(bad)}\n{json.dumps(good)}\n")
    assert command(nowhere, "--batch", "ingest") == 0
    assert "5 answers to 30 requests ingested; 5 are not in" in capsys.readouterr().out
    assert command(server.url) == 2
    assert "5 inputs are in a batch" in capsys.readouterr().err
    assert command(server.url, "--retry", "batched") == 0
    assert server.stats.answered == 5 + 1  # and the probe


def test_answers_that_come_after_all_are_not_thrown_away(
    serve: Any, command: Any, run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken back, but not asked again yet: then the batch comes."""
    server = serve(BatchServer())
    assert command(server.url, "--batch", "submit") == 0
    assert command("http://127.0.0.1:9/v1", "--retry", "batched") == 2  # nobody there
    assert command(server.url, "--batch", "submit", "--set", "synthesis.limit=3", "--force") == 0
    assert "batch-0002: 3 requests" in capsys.readouterr().out
    assert command(server.url, "--batch", "ingest", "--force") == 0
    assert "30 answers to 30" in capsys.readouterr().out
    sent = server.stats.requests
    assert command(server.url) == 0
    assert server.stats.requests == sent


def test_inputs_that_were_put_back_before_can_be_taken_back_too(
    serve: Any, command: Any, run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(BatchServer())
    assert command(server.url, "--batch", "submit") == 0
    with AnswerStore(store_of(run_toml)) as store:
        store._write("update inputs set forgiven = 1")
    assert command(server.url, "--retry", "batched") == 0
    assert "to be asked again: 30 inputs" in capsys.readouterr().err


def test_a_server_that_is_away_is_not_one_without_batches(
    serve: Any, command: Any, run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    assert command(nowhere, "--batch", "submit") == 2
    assert "Is the server running" in capsys.readouterr().err
    assert command(nowhere, "--batch", "write") == 0
    assert "vllm run-batch" in capsys.readouterr().out


def test_inputs_can_be_taken_back_and_caps_hold(serve: Any, command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(BatchServer())
    assert command(server.url, "--batch", "submit", "--set", "llm.max_requests=11") == 0
    out = capsys.readouterr().out
    assert "batch-0001: 10 requests" in out  # and the probe
    assert "20 inputs are left out: llm.max_requests = 11" in out
    assert command(server.url, "--batch", "submit", "--set", "llm.max_requests=11") == 0
    assert "20 inputs are left out" in capsys.readouterr().out
    assert command(server.url, "--retry", "batched") == 0
    assert "to be asked again: 10 inputs" in capsys.readouterr().err
    assert server.stats.answered == 1 + 30


def test_files_are_cut_where_the_server_wants_it(
    serve: Any, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 12)
    server = serve(BatchServer())
    assert command(server.url, "--batch", "submit") == 0
    assert [len(content.splitlines()) for content in server.files.values()] == [12, 12, 6]
    assert command(server.url, "--batch", "ingest") == 0
    assert capsys.readouterr().out.count("ingested") == 3


def test_a_price_that_nobody_knows_is_no_reason_to_forget_its_cap(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("https://llm.example/v1", "--batch", "submit", "--set", "llm.max_cost=1") == 2
    assert 'the price of "mock" is unknown' in capsys.readouterr().err


def test_only_an_endpoint_takes_batches(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", str(run_toml), "--batch", "submit"]) == 2
    assert 'found llm.provider = "scripted"; batches need "endpoint"' in capsys.readouterr().err
