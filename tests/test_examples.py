"""Whatever is shown is executed: the examples, and the configuration in the README."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from multigrain.cli.main import main
from multigrain.cli.parser import VERBS
from multigrain.config import load_config
from multigrain.experiments.grid import Grid
from multigrain.training.grade_schedules import phases_of

ROOT = Path(__file__).parents[1]


def test_own_pairs_run_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real encoder; the scripted language model stands in for the embedded one, which has tests of its own.

    A quarter of the training is enough.
    """
    arguments = ["--set", f"output={tmp_path}", "--set", "llm.provider=scripted", "--set", "baseline.against=none"]
    assert main(["check", str(ROOT / "examples" / "own_pairs.toml"), *arguments]) == 0
    assert "(8 steps x 8)" in capsys.readouterr().out
    arguments += ["--set", "training.steps=2"]
    assert main(["run", str(ROOT / "examples" / "own_pairs.toml"), *arguments]) == 0
    assert "nDCG@10" in capsys.readouterr().out
    assert main(["search", str(tmp_path / "own-pairs"), "connect to the wireless network", "--top", "1"]) == 0
    assert "Library-Guest" in capsys.readouterr().out


def test_the_decoder_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    """Adapters on a small decoder run in tests/model."""
    assert main(["check", str(ROOT / "examples" / "decoder.toml")]) == 0
    assert "embedded-llm, anchor pooling, 64 tokens, top 6 bidirectional, LoRA of rank 16" in capsys.readouterr().out


def test_the_ablation_is_ready() -> None:
    grid = Grid(ROOT / "examples" / "ablation.toml")
    assert len(grid.cells({})) == 12
    for cell in grid.cells({}):
        assert sum(phase.steps or 0 for phase in phases_of(cell.config.training)) == 8  # else they cannot be compared


def test_scifact_is_ready(
    real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULTIGRAIN_DATA", str(real_data("scifact").parent))
    assert main(["check", str(ROOT / "examples" / "scifact.toml")]) == 0
    assert "917 training pairs, 0 held out, 5183 documents" in capsys.readouterr().out


def test_the_readmes_configuration_is_one(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "my.toml").write_text(block)
    config = load_config(tmp_path / "my.toml")
    assert config.name == "my-search"
    assert config.synthesis.limit == 0 and config.data.held_out == 0.1


def test_the_readme_is_a_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120 and len(readme.split()) <= 900


def test_the_readmes_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:^|`|bin/)multigrain (\w+)", readme, re.MULTILINE))
    assert used
    assert used <= set(VERBS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"(?:^|`)make (\w+)", readme, re.MULTILINE):
        assert f"\n{verb}:" in makefile, verb
