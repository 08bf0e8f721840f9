"""Requests exported as shards, answered elsewhere, and imported: against runs that ask a real server themselves."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.llm.budget import Usage
from multigrain.llm.job import NEW_SEED
from multigrain.llm.protocol import Answer
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.request_shards import MANIFEST, write_shards
from multigrain.pipeline.run_dir import RunDir
from tests.conftest import as_lines
from tests.mock_server import Behaviour, MockServer

NOWHERE = "http://127.0.0.1:9/v1"


class Engine(MockServer):
    """Answers a body with texts that depend on nothing else: as a server, and line by line as `vllm run-batch`."""

    def __init__(self) -> None:
        super().__init__(Behaviour(latency=0))
        self.prompts: list[str] = []
        """Prompts of the run that came to the server."""

    async def _answer(self, request: web.BaseRequest, body: dict[str, Any]) -> web.StreamResponse:
        if "Name a colour" not in body["messages"][0]["content"]:
            self.prompts.append(body["messages"][0]["content"])
        return web.json_response(self.reply(body))

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"content": self._text(body, f"{body['messages'][0]['content']} {body['seed']}")}
        usage = {"prompt_tokens": 10, "completion_tokens": 20}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}

    def answered(self, lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [answer(line, self.reply(line["body"])) for line in lines]


def answer(line: dict[str, Any], body: Any, status: int = 200) -> dict[str, Any]:
    """The form in which vLLM and OpenAI write an answer."""
    response = {"status_code": status, "request_id": f"of {line['custom_id']}", "body": body}
    return {"id": "vllm-1", "custom_id": line["custom_id"], "response": response, "error": None}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shards_of(folder: Path) -> list[list[dict[str, Any]]]:
    return [lines_of(path) for path in sorted(folder.glob("requests-*.jsonl"))]


def settings_of(url: str = NOWHERE, *more: str) -> list[str]:
    given = ["llm.provider=endpoint", f"llm.base_url={url}", "llm.model=mock", "mining.enabled=false"]
    return [*given, "synthesis.prompt_style=all-grades", *more]


@pytest.fixture
def command(run_toml: Path) -> Callable[..., int]:
    def run(verb: str, *arguments: str | Path, url: str = NOWHERE, name: str = "tiny") -> int:
        given = [item for setting in settings_of(url, f"name={name}") for item in ("--set", setting)]
        return main([verb, str(run_toml), *map(str, arguments), *given])

    return run


@pytest.fixture
def export(command: Any, tmp_path: Path) -> Callable[..., list[list[dict[str, Any]]]]:
    def run(shards: int = 3, folder: str = "requests", **more: str) -> list[list[dict[str, Any]]]:
        assert command("export-requests", "--shards", str(shards), "--output", tmp_path / folder, **more) == 0
        return shards_of(tmp_path / folder)

    return run


def run_dir_of(run_toml: Path, name: str = "tiny") -> RunDir:
    return RunDir(load_config(run_toml, [f"name={name}"]).folder)


def spent(run_toml: Path) -> Usage:
    with AnswerStore(run_dir_of(run_toml).store) as store:
        return store.spent()


def test_the_candidates_are_those_of_a_run_that_asks_the_endpoint(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = serve(Engine())
    assert command("synthesize", url=engine.url, name="asked") == 0
    shards = export()
    out = capsys.readouterr().out
    assert f"writing negatives: 30 requests in 3 files in {tmp_path / 'requests'}" in out
    assert "asks llm.base_url only for what is missing, and for repairs in grading" in out
    assert [len(shard) for shard in shards] == [10, 10, 10]
    assert {(line["method"], line["url"]) for shard in shards for line in shard} == {("POST", "/v1/chat/completions")}
    assert sorted(line["body"]["messages"][0]["content"] for shard in shards for line in shard) == sorted(
        engine.prompts
    )
    (answers := tmp_path / "answers").mkdir()
    for number, shard in enumerate(shards):
        (answers / f"{number}.jsonl").write_text(as_lines(engine.answered(shard)))
    assert command("import-answers", answers) == 0
    out = capsys.readouterr().out
    assert "30 answers imported\nwriting negatives: every request is answered or parked\n" in out
    assert spent(run_toml) == Usage(30, 300, 600)
    assert command("synthesize") == 0  # no server is there
    asked, imported = run_dir_of(run_toml, "asked"), run_dir_of(run_toml)
    assert imported.candidates.read_bytes() == asked.candidates.read_bytes()
    assert len(lines_of(imported.candidates)) == 30 * 4
    assert command("export-requests", "--shards", "3", "--output", tmp_path / "more") == 0
    assert "nothing to export" in capsys.readouterr().out
    assert not (tmp_path / "more").exists()


def test_the_manifest_tells_what_the_shards_hold(export: Any, tmp_path: Path) -> None:
    (whole,) = export(1, "whole")
    parts = export(4, "parts")
    assert [len(shard) for shard in parts] == [8, 8, 7, 7]
    assert [line for shard in parts for line in shard] == whole  # in the same order, whatever the number
    one, four = (json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("whole", "parts"))
    assert four["digest"] == one["digest"]
    assert {key: four[key] for key in ("run", "step", "model", "requests")} == {
        "run": "tiny",
        "step": "writing negatives",
        "model": "mock",
        "requests": 30,
    }
    files = [tmp_path / "parts" / shard["file"] for shard in four["shards"]]
    assert [shard["bytes"] for shard in four["shards"]] == [path.stat().st_size for path in files]
    assert [shard["requests"] for shard in four["shards"]] == [8, 8, 7, 7]
    before = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    export(4, "parts")
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == before
    assert len(export(100, "many")) == 30  # no file is empty


def test_a_missing_shard_is_asked_by_the_run(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = serve(Engine())
    _, lost, last = export()
    (tmp_path / "answers.jsonl").write_text(as_lines(engine.answered(last)))
    assert command("import-answers", tmp_path / "answers.jsonl") == 0
    assert "10 answers imported\nwriting negatives: 20 requests open" in capsys.readouterr().out
    first, second = export(2, "again")
    assert [line["custom_id"] for line in second] == [line["custom_id"] for line in lost]
    (tmp_path / "more.jsonl").write_text(as_lines(engine.answered(first)))
    assert command("import-answers", tmp_path / "more.jsonl") == 0
    assert command("synthesize", url=engine.url) == 0
    assert sorted(engine.prompts) == sorted(line["body"]["messages"][0]["content"] for line in lost)


def test_a_line_counts_once(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one file, in another file, in another import; but two answers to one request are both paid for."""
    engine = serve(Engine())
    shard, *_ = export()
    lines = engine.answered(shard)
    other = answer(shard[0], {**engine.reply(shard[0]["body"]), "id": "other"})
    (tmp_path / "a.jsonl").write_text(as_lines([*lines, *lines[:2]]))
    (tmp_path / "b.jsonl").write_text(as_lines([{**lines[3], "id": "renamed"}, other]))
    assert command("import-answers", tmp_path / "a.jsonl", tmp_path / "b.jsonl") == 0
    assert "11 answers imported\n3 lines imported before\n" in capsys.readouterr().out
    assert command("import-answers", tmp_path / "b.jsonl", tmp_path / "a.jsonl") == 0
    assert "0 answers imported\n14 lines imported before\n" in capsys.readouterr().out
    assert spent(run_toml) == Usage(11, 110, 220)


def test_errors_and_cut_lines_leave_their_requests_open(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = serve(Engine())
    (shard,) = export(1)
    good, bad = engine.answered(shard[:5]), shard[5]
    failed = {"custom_id": bad["custom_id"], "response": {"status_code": 400, "body": None}, "error": "too long"}
    gone = {"custom_id": shard[6]["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    foreign = {**good[0], "custom_id": "request-1"}
    cut = json.dumps(engine.answered(shard[7:8])[0])[:80]
    (tmp_path / "answers.jsonl").write_text(as_lines([*good, failed, gone, foreign]) + "\n" + cut)
    assert command("import-answers", tmp_path / "answers.jsonl") == 0
    out = capsys.readouterr().out
    assert "5 answers imported\n2 errors, whose requests stay open" in out and '400: "too long"' in out
    assert "1 line to requests that this run does not have\n1 line cut off at the end of a file\n" in out
    assert "writing negatives: 25 requests open" in out
    (again,) = export(1, "again")
    assert again == shard[5:]


def test_an_answer_that_cannot_be_used_is_asked_again_as_by_a_run(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unreadable: with another seed, four times. Truncated: with twice the limit, three times. Then it is parked."""
    engine = serve(Engine())
    (shard,) = export(1)
    (tmp_path / "good.jsonl").write_text(as_lines(engine.answered(shard[2:])))
    assert command("import-answers", tmp_path / "good.jsonl") == 0
    seed, limit = shard[0]["body"]["seed"], shard[0]["body"]["max_tokens"]
    asked = []
    for number in range(4):
        asked += export(1, f"requests{number}")
        unreadable, *truncated = asked[-1]
        lines = [answer(unreadable, {"choices": [{"message": {"content": f"no {number}"}}]})]
        choice = {"message": {"content": '{"gra'}, "finish_reason": "length"}
        lines += [answer(line, {"id": number, "choices": [choice]}) for line in truncated]
        (tmp_path / "bad.jsonl").write_text(as_lines(lines))
        assert command("import-answers", tmp_path / "bad.jsonl") == 0
        if number == 0:
            out = capsys.readouterr().out
            assert "2 requests open. " in out and "2 answers cannot be used, for example: the answer" in out
    assert [lines[0]["body"]["seed"] for lines in asked] == [seed + number * NEW_SEED for number in range(4)]
    assert [lines[1]["body"]["max_tokens"] for lines in asked[:3]] == [limit, 2 * limit, 4 * limit]
    assert [len(lines) for lines in asked] == [2, 2, 2, 1]
    assert "every request is answered or parked" in capsys.readouterr().out
    assert command("synthesize") == 0  # no server is there
    assert [line["reason"] for line in lines_of(run_dir_of(run_toml).parked)] == ["unreadable", "length"]


KILLED = """
import os, signal, sys
from multigrain.cli.main import main
from multigrain.llm.ledger import Ledger
from multigrain.pipeline.generation import answer_import, request_shards
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
answer_import.COMMIT_EVERY = 4
book, booked = Ledger.book, []
def book_ten(self, *arguments):
    book(self, *arguments)
    booked.append(arguments)
    if len(booked) == 10:
        kill()
Ledger.book = book_ten
request_shards.write_json = kill  # the last file of an export
main(sys.argv[1:])
"""


def kill(*arguments: str | Path) -> None:
    given = [item for setting in settings_of() for item in ("--set", setting)]
    command = [sys.executable, "-c", KILLED, *map(str, arguments), *given]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_killed_import_loses_and_doubles_nothing(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = serve(Engine())
    (shard,) = export(1)
    (tmp_path / "answers.jsonl").write_text(as_lines(engine.answered(shard)))
    kill("import-answers", run_toml, tmp_path / "answers.jsonl")
    assert spent(run_toml) == Usage(8, 80, 160)  # the two last commits
    assert command("import-answers", tmp_path / "answers.jsonl") == 0
    assert "22 answers imported\n8 lines imported before\n" in capsys.readouterr().out
    assert spent(run_toml) == Usage(30, 300, 600)


def test_a_killed_export_leaves_no_folder_in_the_way(export: Any, run_toml: Path, tmp_path: Path) -> None:
    whole = export(2, "whole")
    kill("export-requests", run_toml, "--shards", "2", "--output", tmp_path / "requests")
    assert not (tmp_path / "requests").exists()
    assert export(2) == whole


def test_caps_hold(
    command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capped = ["--set", "llm.max_requests=11"]
    assert command("export-requests", "--shards", "2", "--output", tmp_path / "some", *capped) == 0
    assert "19 requests left out: llm.max_requests = 11 leaves no room" in capsys.readouterr().out
    assert [len(shard) for shard in shards_of(tmp_path / "some")] == [6, 5]
    capped = ["--set", "llm.max_requests=0"]
    assert command("export-requests", "--shards", "2", "--output", tmp_path / "none", *capped) == 0
    assert "nothing to export: 30 requests left out" in capsys.readouterr().out


def test_what_is_in_a_batch_is_neither_exported_nor_imported(
    serve: Any, command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = serve(Engine())
    (shard,) = export(1)
    assert command("synthesize", "--batch", "write") == 0
    assert command("export-requests", "--shards", "2", "--output", tmp_path / "more") == 0
    assert "nothing to export" in capsys.readouterr().out
    (tmp_path / "answers.jsonl").write_text(as_lines(engine.answered(shard)))
    assert command("import-answers", tmp_path / "answers.jsonl") == 0
    assert "30 lines to requests that are in a batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"custom_id": cut\n{}\n', "answers.jsonl, line 1: not JSON"),
        ("[]\n", "answers.jsonl, line 1: found '[]'"),
        ('{"response": {}}\n', "answers.jsonl, line 1: found '{\"response\": {}}'"),
        ('{"custom_id": "a", "method": "POST", "url": "/", "body": {}}\n', "line 1: found a request, not an answer"),
        ('{"custom_id": "a"}\n', "line 1: found neither response nor error"),
        ("\n", "answers.jsonl: holds no answer"),
        ('{"custom_id": "a", "response": null, "error": "x"}\n', "none of 1 answer belongs to a request of this run"),
    ],
)
def test_bad_answers_change_nothing(
    serve: Any,
    command: Any,
    export: Any,
    tmp_path: Path,
    content: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (shard,) = export(1)
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    assert command("import-answers", path) == 2
    err = capsys.readouterr().err
    assert expected in err
    good = as_lines(serve(Engine()).answered(shard))
    if "line 1" in expected:  # good lines before it are not booked either
        path.write_text(good + content)
        assert command("import-answers", path) == 2
        assert expected.replace("line 1", "line 31") in capsys.readouterr().err
        assert spent(tmp_path / "run.toml") == Usage()


def test_bad_places_and_providers(
    command: Any, export: Any, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(verb: str, *arguments: str | Path, name: str = "tiny") -> str:
        assert command(verb, *arguments, name=name) == 2
        err = capsys.readouterr().err
        assert err.count("multigrain: ") == 1
        return err.splitlines()[-1]

    assert "has no requests yet. Run: multigrain export-requests" in refused("import-answers", run_toml)
    assert "pairs.jsonl is a file" in refused("export-requests", "--shards", "1", "--output", tmp_path / "pairs.jsonl")
    assert not run_dir_of(run_toml).folder.exists()
    (full := tmp_path / "full").mkdir()
    (full / "thesis.txt").touch()
    assert "full is not empty" in refused("export-requests", "--shards", "1", "--output", full)
    export(2)
    again = ("export-requests", "--output", tmp_path / "requests", "--shards")
    assert 'holds 30 requests of the run "tiny" in 2 files; wanted 3. Give a new folder' in refused(*again, "3")
    assert "the export of 4 requests would differ" in refused(*again, "2", "--set", "synthesis.limit=4", name="other")
    assert sum(map(len, shards_of(tmp_path / "requests"))) == 30
    assert "nowhere: does not exist" in refused("import-answers", tmp_path / "nowhere")
    assert "full: holds no .jsonl file" in refused("import-answers", full)
    for verb, *arguments in (["export-requests", "--shards=1", f"--output={tmp_path / 'x'}"], ["import-answers", "x"]):
        assert main([verb, str(run_toml), *arguments]) == 2
        assert 'llm.provider: found "scripted", which answers in the run itself' in capsys.readouterr().err
    for shards in ("0", "-1", "many"):
        with pytest.raises(SystemExit) as ended:
            command("export-requests", "--shards", shards, "--output", tmp_path / "x")
        assert ended.value.code == 2
        assert "wanted a whole number, at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command("export-requests", "--output", tmp_path / "x")
    assert "the following arguments are required: --shards" in capsys.readouterr().err


@pytest.fixture
def prepared(export: Any, run_toml: Path) -> Path:
    export(1)
    return run_toml


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answered=st.sets(st.integers(0, 29), max_size=29), shards=st.integers(1, 40))
def test_the_union_of_the_shards_is_what_is_open(
    prepared: Path, answered: set[int], shards: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = load_config(prepared, settings_of())
    run_dir = RunDir(config.folder)
    run_dir.store.unlink(missing_ok=True)
    keys = [prompted.request.key for prompted in plans.negatives(config, run_dir).prompts()]
    folder = tmp_path_factory.mktemp("shards")
    reply = Answer(json.dumps({f"grade_{grade}": f"a passage of grade {grade}" for grade in (1, 2, 3, 4)}))
    with AnswerStore(run_dir.store) as store:
        for place in answered:
            store.end_call(store.begin_call(keys[place], 5, Usage(1, 5, 5)), reply, Usage(1, 5, 5))
    write_shards(config, run_dir, shards, folder)
    found = shards_of(folder)
    assert [line["custom_id"] for shard in found for line in shard] == [
        key for place, key in enumerate(keys) if place not in answered
    ]
    sizes = [len(shard) for shard in found]
    assert len(sizes) == min(shards, 30 - len(answered)) and max(sizes) - min(sizes) <= 1
