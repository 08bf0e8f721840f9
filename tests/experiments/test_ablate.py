"""Grids of trainings, on a tiny encoder and the scripted language model."""

import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import Config
from multigrain.errors import ConfigError, RunError
from multigrain.experiments.ablate import ablate
from multigrain.experiments.grid import Grid
from multigrain.experiments.results import read_run
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from tests import warm
from tests.conftest import write_run
from tests.experiments.conftest import GRID
from tests.kept_folder import KeptFolder, Performed, perform

ARMS = ("anchor", "mean", "only_four")
ONE_SEED = GRID.replace("[1, 2]", "[1]")
TUNED = (
    ONE_SEED[: ONE_SEED.index('[arms."only four"')]
    + """
[tune]
values = [1e-3, 1e-9]
task = "held-out"
"""
)


def ablated(project: Path, grid: str) -> Performed:
    """A grid that is finished."""
    toml = project / "grid.toml"
    toml.write_text(grid)
    return perform(project, "ablate", str(toml))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Performed:
    """Three arms with two seeds each, of a run that was not begun before."""
    project = tmp_path_factory.mktemp("finished_grid")
    run = write_run(project, tiny_encoder)
    run.write_text(run.read_text().replace("checkpoint_every = 2", "checkpoint_every = 4"))
    return ablated(project, GRID)


@pytest.fixture
def finished_grid(grid: Performed) -> Path:
    """The file of the grid, of which all cells are done."""
    return grid.project.put_back() / "grid.toml"


@pytest.fixture(scope="module")
def tuned(kept_run: KeptFolder) -> Performed:
    """Two arms, each tuned by two trainings, beside a run that is finished."""
    return ablated(kept_run.put_back(), TUNED)


@pytest.fixture
def tuned_grid(tuned: Performed) -> Path:
    return tuned.project.put_back() / "grid.toml"


def test_a_grid(
    grid: Performed, finished_grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, err = grid
    folder = Grid(finished_grid).folder
    table = json.loads((folder / "table.json").read_text())
    assert (table["cells"], table["done"], table["baseline"]) == (6, 6, "mean")
    cells = table["tasks"]["held-out"]["nDCG@10"]
    assert list(cells) == ["mean", "base, not trained", "anchor", "only four"]  # the baseline first
    assert [len(cell["each"]) for cell in cells.values()] == [2, 1, 2, 2]
    trainings = {"anchor": [1, 2], "mean": [1, 2], "only four": [1, 2]}
    assert table["seeds"] == {"run": 7, "trainings": trainings, "resamples": 7}
    assert "| anchor |" in out and f"{folder}: table.md, table.json" in err and "cell 6 of 6: only four (seed-2)" in err
    assert (folder / "table.md").read_text().startswith(out.splitlines()[0])
    for name in ("metric-held-out.svg", "metric-held-out.png", "training.svg"):
        assert (folder / name).stat().st_size > 1000
    # The values are those of the cells, and the data were prepared, written, mined and graded once.
    assert cells["anchor"]["each"] == [
        read_run(folder / "anchor" / f"seed-{seed}")[1].scores["held-out"]["nDCG@10"] for seed in (1, 2)
    ]
    logs = {(folder / arm / f"seed-{s}" / "training" / "log.jsonl").read_bytes() for arm in ARMS for s in (1, 2)}
    assert len(logs) == 6  # pooling, schedule and seed are in force
    tuples = {(folder / arm / f"seed-{s}" / "grading" / "tuples.jsonl").stat().st_ino for arm in ARMS for s in (1, 2)}
    assert len(tuples) == 1
    assert err.count("synthesize ...") == 1 and err.count("grade ...") == 1 and err.count("train ...") == 6
    assert not list(folder.glob("*/*/training/model")) and not list(folder.glob("*/*/training/checkpoints"))

    # A second time there is nothing to do.
    assert main(["check", str(finished_grid)]) == 0
    assert "6 measured" in capsys.readouterr().out
    assert main(["ablate", str(finished_grid)]) == 0
    again = capsys.readouterr()
    assert again.out == out and "cell " not in again.err

    # A missing plotting library costs the pictures alone; once it is there, the same command draws them.
    pictures = sorted(folder.glob("*.svg"))
    for picture in pictures:
        picture.unlink()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert main(["check", str(finished_grid)]) == 0
        assert "warning     plots are left out: matplotlib is not installed" in capsys.readouterr().out
        assert main(["ablate", str(finished_grid)]) == 0
        bare = capsys.readouterr()
    advice = 'matplotlib is not installed. Run: pip install "multigrain[plots]", then the same command draws them'
    assert bare.out == out and bare.err.count("plots are left out") == 1 and advice in bare.err
    assert not list(folder.glob("*.svg"))
    assert main(["ablate", str(finished_grid)]) == 0
    assert sorted(folder.glob("*.svg")) == pictures


def test_stages_of_the_run_itself_are_taken_over(tuned: Performed, tuned_grid: Path) -> None:
    reused = f"grade: reused from {Grid(tuned_grid).run_folder}"
    assert tuned.err.count(reused) == 6 and "grade ..." not in tuned.err


def test_an_arm_that_grades_otherwise_does_so(finished_grid: Path) -> None:
    finished_grid.write_text(GRID + '\n[arms.mined]\nsynthesis = { sources = { 1 = "mined", 4 = "mined" } }\n')
    ablate(finished_grid)
    folder = Grid(finished_grid).folder
    both, mined = ((folder / arm / "seed-1" / "grading" / "tuples.jsonl").read_text() for arm in ("anchor", "mined"))
    assert both != mined
    again = (folder / "mined" / "seed-2" / "grading" / "tuples.jsonl").stat().st_ino
    assert again == (folder / "mined" / "seed-1" / "grading" / "tuples.jsonl").stat().st_ino


def test_a_setting_is_tuned_for_each_arm(tuned: Performed, tuned_grid: Path) -> None:
    grid = Grid(tuned_grid)
    table = json.loads((grid.folder / "table.json").read_text())
    for arm in ("anchor", "mean"):
        tried = {
            value: read_run(grid.folder / arm / f"tune-{value}")[1].scores["held-out"]["nDCG@10"]
            for value in (1e-3, 1e-9)
        }
        chosen = table["tuned"]["training.learning_rate"][arm]
        assert tried[chosen] == max(tried.values())
        rates = {cell.config.training.learning_rate for cell in grid.cells({arm: chosen}) if cell.arm == arm}
        assert rates == {chosen}
    assert "training.learning_rate = " in tuned.err


def test_an_arm_that_could_not_be_tuned_is_left_out(
    tuned_grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = verbs.measure

    def failing(config: Config, *more: Any) -> None:
        if config.model.pooling == "mean" and config.training.learning_rate == 1e-9:
            raise RunError("training: the loss is no number")
        measure(config, *more)

    folder = Grid(tuned_grid).folder
    shutil.rmtree(folder / "mean")
    (folder / "table.json").unlink()
    monkeypatch.setattr(verbs, "measure", failing)
    assert main(["ablate", str(tuned_grid)]) == 1
    out, err = capsys.readouterr()
    assert "failed: mean (tune-1e-09)" in err and "| anchor |" in out and "| mean |" not in out
    assert "tune.task is also in the table" in err
    monkeypatch.undo()
    assert main(["ablate", str(tuned_grid)]) == 0
    assert "| mean |" in capsys.readouterr().out


def test_an_arm_that_cannot_be_trained_does_not_stop_the_others(
    finished_grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many phases there are is known when the tuples are."""
    short = '\n[arms.short]\ntraining = { phases = [], schedule = "coarse-to-fine", steps = 1 }\n'
    finished_grid.write_text(ONE_SEED + short)
    assert main(["ablate", str(finished_grid)]) == 1
    out, err = capsys.readouterr()
    assert "failed: short (seed-1): " in err and "training.steps" in err and "| only four |" in out


def test_two_at_once_are_one_too_many(grid_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir(Grid(grid_toml).folder).lock():
        assert main(["ablate", str(grid_toml)]) == 2
    assert "another multigrain process is using this folder" in capsys.readouterr().err


def test_bases_that_differ_have_rows_of_their_own(finished_grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_grid.write_text(ONE_SEED + "\n[arms.short.model]\nmax_tokens = 8\n")
    assert main(["ablate", str(finished_grid)]) == 0
    out = capsys.readouterr().out
    assert "| anchor, base, not trained |" in out and "| short, base, not trained |" in out


def test_killed_grids_go_on_to_the_same_table(finished_grid: Path) -> None:
    finished_grid.write_text(ONE_SEED)
    ablate(finished_grid)
    folder = Grid(finished_grid).folder
    expected = (folder / "table.json").read_text()
    shutil.rmtree(folder)
    for _ in range(3):
        process = warm.start("ablate", str(finished_grid), "--quiet")
        while process.is_alive() and not folder.exists():  # the first start imports torch
            time.sleep(0.01)
        time.sleep(random.uniform(0, 2.5))
        process.kill()
        process.join()
    ablate(finished_grid)
    assert (folder / "table.json").read_text() == expected


def test_a_failing_arm_does_not_stop_the_others(
    finished_grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = verbs.measure

    def failing(config: Config, *more: Any) -> None:
        if config.model.pooling == "mean" and config.training.seed == 2:
            raise RunError("training: the loss is no number")
        measure(config, *more)

    shutil.rmtree(Grid(finished_grid).folder / "mean" / "seed-2")
    monkeypatch.setattr(verbs, "measure", failing)
    assert main(["ablate", str(finished_grid)]) == 1
    out, err = capsys.readouterr()
    assert "failed: mean (seed-2): training: the loss is no number" in err
    assert [line.rsplit("| ", 1)[1] for line in out.splitlines() if line.startswith(("| mean", "| anchor"))] == [
        "1 |",
        "2 |",
    ]
    monkeypatch.undo()
    assert main(["ablate", str(finished_grid)]) == 0
    assert capsys.readouterr().err.count("train ...") == 1


@pytest.mark.parametrize(
    "name", ["cell.json", "evaluation/scores.json", "evaluation/per_query.jsonl", "manifest.json", "run.toml"]
)
def test_a_damaged_cell_is_done_anew(finished_grid: Path, name: str) -> None:
    """And the cell after it, which is missing, takes over what it can."""
    folder = Grid(finished_grid).folder
    expected = (folder / "table.json").read_text()
    damaged = folder / "mean" / "seed-1" / name
    damaged.write_text(damaged.read_text()[:20])
    shutil.rmtree(folder / "mean" / "seed-2")
    assert ablate(finished_grid)[1] == []
    assert (folder / "table.json").read_text() == expected


def test_a_cell_made_otherwise_is_not_overwritten(finished_grid: Path) -> None:
    finished_grid.write_text(ONE_SEED.replace("steps = 8", "steps = 6"))
    with pytest.raises(
        ConfigError, match=r"only_four/seed-1: was measured with other settings .training.phases.*--force"
    ):
        ablate(finished_grid)
    ablate(finished_grid, force=True)
    log = Grid(finished_grid).folder / "only_four" / "seed-1" / "training" / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[-1])["step"] == 6
