import subprocess
import sys
from pathlib import Path

import pytest

from multigrain.config import Config
from multigrain.errors import ConfigError, RunError
from multigrain.pipeline.run_dir import RunDir, StageRecord


def config(**training: object) -> Config:
    return Config.model_validate({"name": "x", "data": {"pairs": "a.jsonl"}, "training": training})


def test_another_configuration_is_refused_and_the_key_named(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.claim(config(batch_size=8), accept=True)
    with pytest.raises(ConfigError, match="training.batch_size = 16, in the folder 8.*--force"):
        run_dir.claim(config(batch_size=16), accept=False)
    with pytest.raises(ConfigError, match="made from other input files"):
        run_dir.claim(config(batch_size=8), accept=False)
    assert "batch_size = 8" in run_dir.config.read_text()
    run_dir.claim(config(batch_size=16), accept=True)
    assert "batch_size = 16" in run_dir.config.read_text()


def test_manifest_keeps_the_stages(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    one, two = StageRecord("f1", "0", 7, 1.5, {"pairs": 3}), StageRecord("f2", "0", 7, 2.5)
    run_dir.record("data", one)
    run_dir.record("train", two)
    assert run_dir.stages() == {"data": one, "train": two}
    run_dir.manifest.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        run_dir.stages()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from multigrain.pipeline.run_dir import RunDir\n"
        "try:\n    with RunDir(Path(sys.argv[1])).lock(): print('in')\n"
        "except Exception as error: print(error)"
    )
    with RunDir(tmp_path).lock():
        second = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "another multigrain process is using this folder" in second.stdout
