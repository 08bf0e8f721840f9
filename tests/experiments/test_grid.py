from importlib.resources import files
from pathlib import Path

import pytest

from multigrain.cli.main import main
from multigrain.experiments.grid import Grid
from tests.experiments.conftest import GRID


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
        (("[arms.anchor]", '[arms."table.md"]'), "could be an output file of the grid"),
        (("[arms.anchor]", f"[arms.{'a' * 300}]"), "arms.aaa"),
        (("seeds = [1, 2]", f"seeds = {list(range(101))}"), "seeds: "),
        (("[arms.anchor]", "[arms.anchor]\nseed = 3"), "arms.anchor: sets seed, which the grid sets"),
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
            "found data.held_out, which changes the items measured",
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
    run.write_text(f'evaluation.tasks = ["sts:{pairs}"]\n{run.read_text()}')
    grid_toml.write_text(GRID.replace("seeds = [1, 2]", tune))
    for verb in ("check", "ablate"):
        assert main([verb, str(grid_toml)]) == 2
        assert f'{pairs}, line 1: "score": found' in capsys.readouterr().err
    assert not list(Grid(grid_toml).folder.glob("*/*"))


def test_a_run_is_no_grid_and_a_grid_no_run(
    grid_toml: Path, run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", str(run_toml)]) == 2
    assert "no [arms]; wanted the file of a grid" in capsys.readouterr().err
    assert main(["run", str(grid_toml)]) == 2
    assert "Run: multigrain ablate" in capsys.readouterr().err


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
