"""Settings chosen on a dev part of the training queries, on a tiny encoder and the scripted language model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_pairs, read_tuples
from multigrain.experiments.tune import tune
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import identity
from tests.conftest import small_pairs

CHOICE = """
[tune]
values = { learning_rate = [1e-2, 1e-9] }
recipes = [{ schedule = "only-4" }]
"""


@pytest.fixture
def tunable(run_toml: Path) -> Path:
    """A run with enough pairs to choose by, and a schedule that can be shortened."""
    run_toml.with_name("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in small_pairs(200)))
    text = run_toml.read_text()
    text = text[: text.index("[[training.phases]]")].replace("learning_rate = 1e-3\n", "steps = 40\n")
    run_toml.write_text(text + CHOICE)
    return run_toml


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == code
    return capsys.readouterr()


def table_of(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(RunDir(load_config(path).folder).tuning.read_bytes())
    return table


def test_a_choice_and_what_training_takes(tunable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys, "tune", str(tunable))
    print(out, err)
    table = table_of(tunable)
