"""Whole commands under a launcher: what two processes leave, print and survive."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from multigrain.cli.main import main
from multigrain.config import load_config
from tests import warm
from tests.model.decoder import tiny_decoder
from tests.training.test_distributed import TOLERANCE, assert_equal_numbers, log_of

ROOT = Path(__file__).parents[2]

ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "multigrain"]


def accelerate(*arguments: str) -> None:
    """`accelerate launch`, a user's way: every process is a new interpreter. Wait until it has succeeded."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *ACCELERATE, *arguments]
    launched = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert launched.returncode == 0, launched.stderr


def torchrun(printing: Path, *arguments: str) -> warm.Call:
    """`torchrun --standalone --nproc-per-node 2 -m multigrain ARGUMENTS`, but the workers are forked."""
    return warm.call(_launch, *arguments, printing=printing)


def _launch(*arguments: str) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, _work)(*arguments)


def _work(*arguments: str) -> None:
    sys.exit(main(list(arguments)))


def graded(run_toml: Path, *outputs: Path) -> None:
    """The folders of runs that are ready to be trained."""
    for verb in ("synthesize", "grade"):
        assert main([verb, str(run_toml), "--quiet"]) == 0
    for output in outputs:
        shutil.copytree(load_config(run_toml).folder, output / "tiny")


def training(run_toml: Path, output: Path) -> list[str]:
    """A command; its steps are slow enough to be interrupted."""
    settings = [f"output={output}", "training.evaluate=true", "training.micro_batch_tokens=1"]
    return ["train", str(run_toml), *(word for setting in settings for word in ("--set", setting))]


def workers(launcher: warm.Call) -> list[int]:
    """By rank, as they were started."""
    pid = launcher.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(path: Path, launcher: warm.Call) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert launcher.process.is_alive() and time.monotonic() < until, launcher.printed()
        time.sleep(0.005)


def test_two_processes_leave_the_run_that_one_leaves_even_if_they_are_killed(
    run_toml: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two, killed = tmp_path / "one", tmp_path / "two", tmp_path / "killed"
    graded(run_toml, one, two, killed)
    capfd.readouterr()
    assert main(training(run_toml, one)) == 0
    expected = capfd.readouterr()
    launched = torchrun(tmp_path / "printed", *training(run_toml, two))
    assert as_printed(*launched.ended(0)) == as_printed(*expected)
    assert_same_run(one / "tiny", two / "tiny")

    checkpoints = killed / "tiny" / "training" / "checkpoints"
    disturbed = torchrun(tmp_path / "printed", *training(run_toml, killed))
    wait_for(checkpoints / "checkpoint-2" / "trainer_state.json", disturbed)
    os.kill(workers(disturbed)[1], signal.SIGKILL)  # the main process must not wait for ever
    _, err = disturbed.ended(1)
    said = re.findall("multigrain: (.*?) ", err)
    assert said in (["training:"], ["stopped."], [])  # torchrun may kill it before it has said anything
    assert said or "SIGKILL" in err
    disturbed = torchrun(tmp_path / "printed", *training(run_toml, killed))
    wait_for(checkpoints / "checkpoint-6" / "trainer_state.json", disturbed)
    ranks = workers(disturbed)
    disturbed.process.kill()
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    disturbed.ended(-signal.SIGKILL)
    assert not (killed / "tiny" / "training" / "model").exists()
    accelerate(*training(run_toml, killed))
    weights = Path("tiny") / "training" / "model" / "model.safetensors"
    assert (killed / weights).read_bytes() == (two / weights).read_bytes()
    assert log_of(killed / "tiny" / "training") == log_of(two / "tiny" / "training")

    again = torchrun(tmp_path / "again", *training(run_toml, two))
    uneven = torchrun(tmp_path / "uneven", *training(run_toml, one), "--set", "training.batch_size=5", "--force")
    assert again.ended(0)[1] == "train: already done (8 steps, 2 phases, 4 tuples per step)\n"
    out, err = uneven.ended(1)  # the launcher's code, whatever ours is
    fault = "training.batch_size: found 5; wanted a multiple of the 2 processes"
    assert (out, re.findall("multigrain: (.*)", err)) == ("", [fault])
    assert "exitcode  : 2" in err


def test_two_processes_read_the_instruction_of_each_pair_as_one_does(run_toml: Path, tmp_path: Path) -> None:
    pairs = run_toml.with_name("pairs.jsonl")
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    own = [{}, {"instruction": "find the cat"}, {"instruction": "where is the big dog in the garden"}]
    pairs.write_text("".join(json.dumps(row | own[number % 3]) + "\n" for number, row in enumerate(rows)))
    model = 'instruction = "find it"\nquery_prompt = "the {instruction} eat "\nprompt_in_pooling = false'
    run_toml.write_text(run_toml.read_text().replace("max_tokens = 32", f"max_tokens = 32\n{model}"))
    one, two = tmp_path / "one", tmp_path / "two"
    graded(run_toml, one, two)
    tuples = (one / "tiny" / "grading" / "tuples.jsonl").read_text()
    assert len(set(re.findall('"instruction": "(.*?)"', tuples))) == 2
    assert main(training(run_toml, one)) == 0
    _, err = torchrun(tmp_path / "printed", *training(run_toml, two)).ended(0)
    assert "tuples have an instruction (2 different)" in err
    assert_same_run(one / "tiny", two / "tiny")


def test_a_base_is_adapted_by_one_process_and_then_trained_by_two(run_toml: Path, tmp_path: Path) -> None:
    """The main process must not adapt while the others wait, because its own libraries wait for them, too."""
    decoder = tiny_decoder("both", head=True)
    text = re.sub("base = .*", f'base = "{decoder}"\nbidirectional = true\nlora = {{ rank = 2 }}', run_toml.read_text())
    run_toml.write_text(f'{text}\n[adapt]\ntokens = 600\nmax_tokens = 16\nmask_token = "the"\n')
    graded(run_toml)
    command = ["train", str(run_toml), "--quiet"]
    _, err = torchrun(tmp_path / "refused", *command).ended(1)  # the launcher's code, whatever ours is
    folder = load_config(run_toml).folder
    fault = f"{folder}: the earlier stage adapt is not done. Run: multigrain adapt RUN.toml"
    assert re.findall("multigrain: (.*)", err) == [fault]
    assert "exitcode  : 2" in err
    assert not (folder / "adaptation").exists()
    assert main(["adapt", str(run_toml), "--quiet"]) == 0
    assert not (folder / "training").exists()
    torchrun(tmp_path / "trained", *command).ended(0)
    assert (folder / "training" / "model" / "adapter_config.json").is_file()


def as_printed(out: str, err: str) -> tuple[str, str]:
    """But for times."""
    err = re.sub(r"^training .*\n", "", err, flags=re.MULTILINE)
    return re.sub(r" *\d+ s\b", "", out), re.sub(r"\d+ s\b", "", err)


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but for the run's own settings."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "run.toml"}


ROUNDED = ("manifest.json", "summary.json", "log.jsonl", "model.safetensors")
"""What holds weights, losses and times."""


def assert_same_run(one: Path, other: Path) -> None:
    """All files, byte by byte or but for rounding and times."""
    files, others = files_of(one), files_of(other)
    assert files.keys() == others.keys()
    differing = {Path(name).name for name in files if files[name] != others[name]}
    assert differing <= {*ROUNDED}
    assert_equal_numbers(log_of(other / "training"), log_of(one / "training"), TOLERANCE[True])
    for name in (name for name in files if name.endswith("model.safetensors")):
        expected = load_file(one / name)
        for key, value in load_file(other / name).items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=TOLERANCE[True], msg=f"{name} {key}")
    for name in ("manifest.json", "summary.json"):
        found, wanted = (re.sub(rb'("seconds": |"train": )[\d.]+', b"", of[name]) for of in (others, files))
        assert found == wanted
