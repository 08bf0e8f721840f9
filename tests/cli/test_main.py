"""Bad input: one clear message, exit code 2, nothing written over."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import multigrain
from multigrain.cli.main import main
from multigrain.cli.parser import VERBS
from multigrain.config import load_config
from multigrain.pipeline import verbs
from tests.conftest import small_pairs
from tests.pipeline.test_dropped import graded_run


def stderr_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"not json", "pairs.jsonl, line 3: not JSON"),
        (b'{"query": "a"}', 'pairs.jsonl, line 3: no field "positive"'),
        (b'{"query": "", "positive": "b"}', 'pairs.jsonl, line 3: field "query" is empty'),
        (b'{"query": "\xff", "positive": "b"}', "pairs.jsonl, line 3: not UTF-8"),
        (b'{"id": "p0", "query": "a", "positive": "b"}', 'pairs.jsonl, line 3: the id "p0" appears a second time'),
    ],
)
@pytest.mark.parametrize("verb", ["check", "run"])
def test_bad_lines(run_toml: Path, capsys: pytest.CaptureFixture[str], verb: str, line: bytes, expected: str) -> None:
    pairs = run_toml.parent / "pairs.jsonl"
    lines = pairs.read_bytes().splitlines()
    pairs.write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]))
    assert expected in stderr_of(capsys, verb, str(run_toml))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.pairs=absent.jsonl", "absent.jsonl: cannot be read: No such file"),
        ("data.corpus=pairs.jsonl", 'no field "text"'),
        ("data.pairs=beir:nowhere:train", "no corpus.jsonl"),
        ("data.pairz=x", 'data.pairz: unknown key; did you mean "data.pairs"?'),
        ("data.limit=1", "found 1 pair to train on; a batch needs at least 2. Raise data.limit = 1"),
        ("model.base=/nowhere", "model.base: /nowhere: no such folder"),
        ("model.base=/tmp", "model.base: /tmp is not a model"),
        ("evaluation.tasks=['held out']", 'wanted "held-out", beir:FOLDER:SPLIT'),
        ("evaluation.tasks=['beir:x:test']", "there is no"),
        ("data.held_out=0.0", '"held-out" needs data.held_out above 0'),
        ("data.held_out=['moon']", "no pairs with source moon; sources found: source0"),
        ("llm.provider=endpoint", "also needs base_url and model"),
        ("seed=-1", "seed: found -1"),
    ],
)
def test_bad_settings(run_toml: Path, capsys: pytest.CaptureFixture[str], override: str, expected: str) -> None:
    assert expected in stderr_of(capsys, "run", str(run_toml), "--set", override)


@pytest.mark.parametrize("verb", ["check", "run"])
def test_the_files_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert "No such file" in stderr_of(capsys, verb, str(tmp_path / "absent.toml"))
    folder = "neither a run folder (no run.toml) nor a model" if verb == "check" else "is a folder without run.toml"
    assert folder in stderr_of(capsys, verb, str(tmp_path))
    assert "found an empty path; give its path" in stderr_of(capsys, verb, "")
    (tmp_path / "run.toml").write_text("name: x\n")
    assert "not TOML" in stderr_of(capsys, verb, str(tmp_path / "run.toml"))


def endpoint(url: str) -> list[str]:
    return [
        "--set", "llm.provider=endpoint", "--set", f"llm.base_url={url}", "--set", "llm.model=m",
        "--set", "llm.api_key_env=MULTIGRAIN_TEST_KEY",
    ]  # fmt: skip


def test_an_endpoint_that_is_not_there(
    run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["synthesize", str(run_toml), *endpoint("http://127.0.0.1:9/v1")]
    assert "the environment variable MULTIGRAIN_TEST_KEY is not set" in stderr_of(capsys, *arguments)
    monkeypatch.setenv("MULTIGRAIN_TEST_KEY", "topsecret")
    err = stderr_of(capsys, *arguments, "--quiet")
    assert "Is the server running, and llm.base_url right?" in err
    folder = load_config(run_toml).folder
    assert not any(b"topsecret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_held_out_query_that_is_also_in_training(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_toml.parent / "leak"
    (folder / "qrels").mkdir(parents=True)
    pairs = small_pairs()
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": p["id"], "text": p["positive"]}) + "\n" for p in pairs)
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": p["id"], "text": p["query"]}) + "\n" for p in pairs)
    )
    (folder / "qrels" / "test.tsv").write_text("".join(f"{p['id']}\t{p['id']}\t1\n" for p in pairs))
    err = stderr_of(capsys, "run", str(run_toml), "--quiet", "--set", f"evaluation.tasks=['beir:{folder}:test']")
    assert "of its queries are also in the training pairs" in err


def test_a_full_disk(run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert main(["synthesize", str(run_toml), "--quiet"]) == 0
    capsys.readouterr()
    before = {p: p.read_bytes() for p in load_config(run_toml).folder.rglob("*.jsonl")}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert "the disk is full. Make room" in stderr_of(capsys, "grade", str(run_toml), "--quiet")
    assert {p: p.read_bytes() for p in load_config(run_toml).folder.rglob("*.jsonl")} == before
    assert main(["grade", str(run_toml), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 2, "disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), 2, "/mnt/x: Read-only file system"),
        (RuntimeError("something else"), 1, "RuntimeError: something else"),
    ],
)
def test_foreign_errors_are_told_for_what_they_are(
    run_toml: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    expected: str,
) -> None:
    def broken(*_args: object) -> None:
        raise error

    monkeypatch.setattr("multigrain.pipeline.stages.data.read_data", broken)
    assert main(["synthesize", str(run_toml), "--quiet"]) == code
    assert expected in capsys.readouterr().err


def test_an_unforeseen_error_is_one_line_unless_debug(
    run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(verbs, "run", broken)
    assert main(["run", str(run_toml)]) == 1
    assert "ZeroDivisionError: by design" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main(["run", str(run_toml), "--debug"])


def test_check_describes_the_run(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(run_toml)]) == 0
    out = capsys.readouterr().out
    assert "30 training pairs, 10 held out" in out
    assert "4 requests per pair (per-grade)" in out
    assert "coarse (4) -> fine (4)" in out
    assert "new" in out
    assert not load_config(run_toml).folder.exists()


def test_the_time_of_a_run_alone_is_measured(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text('name = "g"\nrun = "run.toml"\n[arms.a]\n')
    assert f"--time: is only for runs; {grid} describes a grid" in stderr_of(capsys, "check", str(grid), "--time")
    assert main(["check", str(run_toml), "--time"]) == 0
    assert "  measured    " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["check", "QUICKSTART"]])
def test_help_and_check_start_without_torch(arguments: list[str]) -> None:
    from multigrain.config import QUICKSTART

    script = (
        "import sys\nfrom multigrain.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", script, *(str(QUICKSTART) if a == "QUICKSTART" else a for a in arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_reader_who_has_enough_is_no_error(run_toml: Path) -> None:
    """As in `multigrain check run.toml | head -1`."""
    command = [sys.executable, "-m", "multigrain", "check", str(run_toml)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert "usage: multigrain " + verb in capsys.readouterr().out


def test_public_names_resolve() -> None:
    assert sorted(multigrain._HOMES) == multigrain.__all__
    for name in multigrain.__all__:
        assert getattr(multigrain, name) is not None
    assert set(multigrain.__all__) <= set(dir(multigrain))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        multigrain.nothing  # noqa: B018


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On stdout, as for --help; but a script whose verb is empty has to notice."""
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "usage: multigrain" in out and all(verb in out for verb in VERBS) and err == ""
    monkeypatch.setattr(sys, "argv", ["multigrain"])
    assert main() == 2
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("trian run.toml", "unknown command trian; did you mean train?"),
        ("Train run.toml", "unknown command Train; did you mean train?"),
        ("export_onnx model", "unknown command export_onnx; did you mean export-onnx?"),
        ("my.toml", "unknown command my.toml; did you mean multigrain run my.toml?"),
        ("xyz", "unknown command xyz; see multigrain --help"),
        ("train run.toml --sett a.b=1", "unknown option --sett; did you mean --set?"),
        ("train run.toml --stes=1", "unknown option --stes=1; did you mean --set?"),
        ("search runs/x how do I", "unknown argument do; see multigrain search --help"),
        ("--versions", "unknown option --versions; did you mean --version?"),
        ("train --versions", "unknown option --versions; see multigrain train --help"),
        ("help train", "unknown command help; did you mean --help?"),
        ("version", "unknown command version; did you mean --version?"),
        ("--quiet train run.toml", "unknown option --quiet; see multigrain --help"),
        ("train", "the following arguments are required: RUN.toml"),
    ],
)
def test_misspelt_verbs_and_options(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and expected in err


def test_dropped_counts_a_run_and_shows_a_pair(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stderr_of(capsys, "dropped", str(run_toml)).endswith(
        "tiny: there are no graded tuples yet. Run: multigrain grade RUN.toml\n"
    )
    graded_run(run_toml)
    assert main(["dropped", str(run_toml)]) == 0
    assert "19 candidates dropped" in capsys.readouterr().out
    assert main(["dropped", str(run_toml), "--pair", "q1"]) == 0
    out, err = capsys.readouterr()
    assert "length (2)" in out and "given text" in out and err == ""
    assert 'did you mean "q10"?' in stderr_of(capsys, "dropped", str(run_toml), "--pair", "Q10")
