"""Grids of trainings, on a tiny encoder and the scripted language model."""

import json
import random
import time
from importlib.resources import files
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

GRID = """
name = "grid"
run = "run.toml"
seeds = [1, 2]
baseline = "mean"

[arms.anchor]

[arms.mean.model]
pooling = "mean"

[arms."only four".training]
phases = [{ name = "four", grades = [4], steps = 8 }]
"""


@pytest.fixture
def grid_toml(run_toml: Path) -> Path:
    path = run_toml.with_name("grid.toml")
    path.write_text(GRID)
    return path


def stages_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def test_a_grid(grid_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", str(grid_toml)]) == 0
    out, err = capsys.readouterr()
    folder = Grid(grid_toml).folder
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
    assert main(["check", str(grid_toml)]) == 0
    assert "6 measured" in capsys.readouterr().out
    assert main(["ablate", str(grid_toml)]) == 0
    again = capsys.readouterr()
    assert again.out == out and "cell " not in again.err


ARMS = ("anchor", "mean", "only_four")


def test_check_looks_at_every_arm_before_anything_is_trained(
    grid_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(grid_toml)]) == 0
    out = capsys.readouterr().out
    assert '"anchor", "mean", "only four"' in out and "6: 3 arms x 2 seeds" in out and "0 measured" in out
    assert not Grid(grid_toml).folder.exists()
    assert main(["check", str(grid_toml), "--set", "seed=1"]) == 2
    assert "describes a grid" in capsys.readouterr().err
    grid_toml.write_text(GRID.replace("grades = [4]", "grades = [5]"))
    assert main(["check", str(grid_toml)]) == 2
    assert "only four" in capsys.readouterr().err


def test_seeds_are_of_the_training_alone(grid_toml: Path) -> None:
    cells = Grid(grid_toml).cells({})
    assert {cell.config.seed for cell in cells} == {7}
    assert [cell.config.training_seed for cell in cells] == [1, 1, 1, 2, 2, 2]


def test_stages_of_the_run_itself_are_taken_over(
    run_toml: Path, grid_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(run_toml)]) == 0
    capsys.readouterr()
    assert main(["ablate", str(grid_toml)]) == 0
    err = capsys.readouterr().err
    assert err.count(f"grade: as in {Grid(grid_toml).run_folder}") == 6 and "grade ..." not in err


def test_an_arm_that_grades_otherwise_does_so(grid_toml: Path) -> None:
    grid_toml.write_text(GRID + '\n[arms.mined]\nsynthesis = { sources = { 1 = "mined", 4 = "mined" } }\n')
    ablate(grid_toml)
    folder = Grid(grid_toml).folder
    both, mined = ((folder / arm / "seed-1" / "grading" / "tuples.jsonl").read_text() for arm in ("anchor", "mined"))
    assert both != mined
    again = (folder / "mined" / "seed-2" / "grading" / "tuples.jsonl").stat().st_ino
    assert again == (folder / "mined" / "seed-1" / "grading" / "tuples.jsonl").stat().st_ino


def test_a_setting_is_tuned_for_each_arm(grid_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid_toml.write_text(GRID + '\n[tune]\nvalues = [1e-3, 1e-9]\ntask = "held-out"\n')
    assert main(["ablate", str(grid_toml)]) == 0
    grid = Grid(grid_toml)
    table = json.loads((grid.folder / "table.json").read_text())
    for arm in ARMS:
        tried = {
            value: read_run(grid.folder / arm / f"tune-{value}")[1].scores["held-out"]["nDCG@10"]
            for value in (1e-3, 1e-9)
        }
        chosen = table["tuned"]["training.learning_rate"][arm.replace("_", " ")]
        assert tried[chosen] == max(tried.values())
        name = arm.replace("_", " ")
        rates = {cell.config.training.learning_rate for cell in grid.cells({name: chosen}) if cell.arm == name}
        assert rates == {chosen}
    assert "training.learning_rate = " in capsys.readouterr().err


def test_an_arm_that_could_not_be_tuned_is_left_out(
    grid_toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = verbs.measure

    def failing(config: Config, *more: Any) -> None:
        if config.model.pooling == "mean" and config.training.learning_rate == 1e-9:
            raise RunError("training: the loss is no number")
        measure(config, *more)

    grid_toml.write_text(GRID.replace("[1, 2]", "[1]") + '\n[tune]\nvalues = [1e-3, 1e-9]\ntask = "held-out"\n')
    monkeypatch.setattr(verbs, "measure", failing)
    assert main(["ablate", str(grid_toml)]) == 1
    out, err = capsys.readouterr()
    assert "failed: mean (tune-1e-09)" in err and "| anchor |" in out and "| mean |" not in out
    assert "tune.task is in the table too" in err
    monkeypatch.undo()
    assert main(["ablate", str(grid_toml)]) == 0
    assert "| mean |" in capsys.readouterr().out


def test_an_arm_that_cannot_be_trained_does_not_stop_the_others(
    grid_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many phases there are is known when the tuples are."""
    short = '\n[arms.short]\ntraining = { phases = [], schedule = "coarse-to-fine", steps = 1 }\n'
    grid_toml.write_text(GRID.replace("[1, 2]", "[1]") + short)
    assert main(["ablate", str(grid_toml)]) == 1
    out, err = capsys.readouterr()
    assert "failed: short (seed-1): " in err and "training.steps" in err and "| only four |" in out


def test_two_at_once_are_one_too_many(grid_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir(Grid(grid_toml).folder).lock():
        assert main(["ablate", str(grid_toml)]) == 2
    assert "another multigrain process is at work here" in capsys.readouterr().err


def test_bases_that_differ_have_rows_of_their_own(grid_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid_toml.write_text(GRID.replace("[1, 2]", "[1]") + "\n[arms.short.model]\nmax_tokens = 8\n")
    assert main(["ablate", str(grid_toml)]) == 0
    out = capsys.readouterr().out
    assert "| anchor, base, not trained |" in out and "| short, base, not trained |" in out


def test_killed_grids_go_on_to_the_same_table(grid_toml: Path, tmp_path: Path) -> None:
    ablate(grid_toml)
    folder = Grid(grid_toml).folder
    expected = (folder / "table.json").read_text()
    folder.rename(tmp_path / "uninterrupted")
    for _ in range(3):
        process = warm.start("ablate", str(grid_toml), "--quiet")
        while process.is_alive() and not folder.exists():  # the first start imports torch
            time.sleep(0.01)
        time.sleep(random.uniform(0, 5))
        process.kill()
        process.join()
    ablate(grid_toml)
    assert (folder / "table.json").read_text() == expected


def test_a_failing_arm_does_not_stop_the_others(
    grid_toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = verbs.measure

    def failing(config: Config, *more: Any) -> None:
        if config.model.pooling == "mean" and config.training.seed == 2:
            raise RunError("training: the loss is no number")
        measure(config, *more)

    monkeypatch.setattr(verbs, "measure", failing)
    assert main(["ablate", str(grid_toml)]) == 1
    out, err = capsys.readouterr()
    assert "failed: mean (seed-2): training: the loss is no number" in err
    assert [line.rsplit("| ", 1)[1] for line in out.splitlines() if line.startswith(("| mean", "| anchor"))] == [
        "1 |",
        "2 |",
    ]
    monkeypatch.undo()
    assert main(["ablate", str(grid_toml)]) == 0
    assert capsys.readouterr().err.count("train ...") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("[arms.anchor]", "[arms.anchor.trainin]\nsteps = 3"),
            'arms.anchor.trainin: unknown key; did you mean "training"',
        ),
        (('pooling = "mean"', 'pooling = "middle"'), "arms.mean.model.pooling: found"),
        (('baseline = "mean"', 'baseline = "men"'), 'baseline: found "men"; the arms are "anchor", "mean"'),
        (("seeds = [1, 2]", "seeds = [1, 1]"), "seeds: a seed is named twice"),
        (("seeds = [1, 2]", "seeds = [-1]"), "seeds.0: found -1"),
        (('run = "run.toml"', 'run = "nowhere.toml"'), "nowhere.toml: cannot be read"),
        (('name = "grid"', 'name = "a/b"'), "name: found"),
        (('name = "grid"', 'nam = "grid"'), "nam: unknown key"),
        (('name = "grid"', 'name = "tiny"'), "name: tiny is the name of the run too"),
        (("[arms.anchor]", '[arms."only_four"]'), '"only_four" and "only four" would share a folder'),
        (("[arms.anchor]", '[arms."base, not trained"]'), "is the name of the model before training"),
        (("[arms.anchor]", '[arms."table.md"]'), "could be a file of the grid's table"),
        (("[arms.anchor]", f"[arms.{'a' * 300}]"), "arms.aaa"),
        (("seeds = [1, 2]", f"seeds = {list(range(101))}"), "seeds: "),
        (("[arms.anchor]", "[arms.anchor]\nseed = 3"), "arms.anchor: sets seed, of which the grid takes care"),
        (("[arms.anchor]", "[arms.anchor]\ntraining = { seed = 3 }"), "arms.anchor: sets training.seed"),
        (("[arms.anchor]", "[arms.anchor]\ntraining = 3"), "arms.anchor.training: found 3"),
        (
            ("[arms.anchor]", "[arms.anchor]\ndata = { held_out = 0.5 }"),
            'arms.mean: data differs from that of "anchor"',
        ),
        (
            ("[arms.anchor]", "[arms.anchor]\ndata = { limit = 20 }"),  # fewer documents are searched
            'arms.mean: data differs from that of "anchor"',
        ),
        (
            ("seeds = [1, 2]", 'tune = { key = "training.seed", values = [1, 2], task = "held-out" }'),
            "found training.seed",
        ),
        (("seeds = [1, 2]", 'tune = { values = [1e-5, 1e-5], task = "held-out" }'), "a value is named twice"),
        (
            ("seeds = [1, 2]", 'tune = { key = "data.held_out", values = [0.2, 0.3], task = "held-out" }'),
            "found data.held_out, by which other items are measured",
        ),
        (
            ("seeds = [1, 2]", 'tune = { key = "training.step", values = [2, 3], task = "held-out" }'),
            'tune: training.step: unknown key; did you mean "training.steps"?',
        ),
        (("seeds = [1, 2]", "seed = [1, 2]"), 'seed: unknown key; did you mean "seeds"?'),
    ],
)
def test_bad_grids(grid_toml: Path, change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    grid_toml.write_text(GRID.replace(*change))
    assert main(["ablate", str(grid_toml)]) == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""


def test_bad_data_is_found_before_anything_is_trained(grid_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = grid_toml.with_name("sts.jsonl")
    pairs.write_text('{"sentence1": "a cat", "sentence2": "a dog", "score": "nan"}\n')
    tune = 'tune = { values = [1e-5, 2e-5], task = "held-out" }'
    run = grid_toml.with_name("run.toml")
    run.write_text(run.read_text() + f'\n[evaluation]\ntasks = ["sts:{pairs}"]\n')
    grid_toml.write_text(GRID.replace("seeds = [1, 2]", tune))
    for verb in ("check", "ablate"):
        assert main([verb, str(grid_toml)]) == 2
        assert f'{pairs}, line 1: "score": found' in capsys.readouterr().err
    assert not list(Grid(grid_toml).folder.glob("*/*"))


def test_a_run_is_no_grid_and_a_grid_no_run(
    grid_toml: Path, run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", str(run_toml)]) == 2
    assert "no [arms]; wanted a grid's file" in capsys.readouterr().err
    assert main(["run", str(grid_toml)]) == 2
    assert "Grids go to: multigrain ablate" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["cell.json", "evaluation/scores.json", "evaluation/per_query.jsonl", "manifest.json", "run.toml"]
)
def test_a_damaged_cell_is_done_anew(grid_toml: Path, name: str) -> None:
    grid_toml.write_text(GRID.replace("[1, 2]", "[1]"))
    ablate(grid_toml)
    folder = Grid(grid_toml).folder
    expected = (folder / "table.json").read_text()
    damaged = folder / "mean" / "seed-1" / name
    damaged.write_text(damaged.read_text()[:20])
    ablate(grid_toml)
    assert (folder / "table.json").read_text() == expected
    grid_toml.write_text(GRID)  # and the second seed takes over what it can
    assert ablate(grid_toml)[1] == []


def test_other_prompts_make_another_cell(grid_toml: Path, run_toml: Path) -> None:
    prompts = run_toml.with_name("prompts")
    prompts.mkdir()
    (prompts / "all_grades.txt").write_text((files("multigrain.synthesis") / "prompts" / "all_grades.txt").read_text())
    run_toml.write_text(run_toml.read_text().replace("[synthesis]", f'[synthesis]\nprompts = "{prompts}"'))
    cell = Grid(grid_toml).cells({})[0]
    before = cell.fingerprint
    assert Grid(grid_toml).cells({})[0].fingerprint == before
    with (prompts / "all_grades.txt").open("a") as file:
        file.write("Be brief.\n")
    assert cell.fingerprint != before


def test_a_cell_made_otherwise_is_not_overwritten(grid_toml: Path) -> None:
    ablate(grid_toml)
    grid_toml.write_text(GRID.replace("steps = 8", "steps = 6"))
    with pytest.raises(
        ConfigError, match=r"only_four/seed-1: was measured with other settings .training.phases.*--force"
    ):
        ablate(grid_toml)
    ablate(grid_toml, force=True)
    log = Grid(grid_toml).folder / "only_four" / "seed-1" / "training" / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[-1])["step"] == 6
