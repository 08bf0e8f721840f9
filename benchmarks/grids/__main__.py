"""Run all grids, or the named ones.

    python -m benchmarks.grids [GRID ...]

A grid is a file benchmarks/CLAIM/NAME.toml, named CLAIM/NAME, such as curriculum/snli. The runs that the grids vary are
in this folder. Grids that need a GPU only run by name: pooling/smollm2-all-layers.

The same command resumes after an interruption. A grid's table, its environment and its cost go into
benchmarks/CLAIM/results and docs/results.md. A recipe is also compared with the stock sentence-transformers trainer
(stock.py). Needs MULTIGRAIN_DATA (see data.py).
"""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.grids import data
from benchmarks.grids.stock import STOCKS, run_stock
from benchmarks.shared.data_sets import DATA_SETS
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.pages import around, put_into
from benchmarks.shared.result_files import new_result
from multigrain.errors import MultigrainError
from multigrain.experiments.ablate import ablate
from multigrain.experiments.compare_runs import BASE, SEED
from multigrain.experiments.comparison import Arm, compare
from multigrain.experiments.grid import Grid
from multigrain.experiments.results import read_run
from multigrain.experiments.tables import tables
from multigrain.files import write_json
from multigrain.terminal import complain, say

BENCHMARKS = Path(__file__).parents[1]
PAGE = BENCHMARKS.parent / "docs" / "results.md"
WANT_A_GPU = ("pooling/smollm2-all-layers",)
"""Grids that take days on two cores."""


def main() -> None:
    paths = grid_files()
    parser = parser_of(__doc__)
    parser.add_argument(
        "grids", nargs="*", metavar="GRID", help="such as curriculum/snli (default: all that need no GPU)"
    )
    options = parser.parse_args()
    names = options.grids or [name for name in paths if name not in WANT_A_GPU]
    if unknown := [name for name in names if name not in paths]:
        parser.error(f"no grid {unknown[0]}; there are {', '.join(paths)}")
    require_commit(options)
    for name in names:
        around(PAGE, mark_of(name))
    os.environ.setdefault("MULTIGRAIN_DATA", str(DATA_SETS.absolute()))  # for the paths in the grids
    if not data.LAST.exists():
        data.main()
    for name in names:
        run_grid(name, paths[name])


def grid_files() -> dict[str, Path]:
    """Return the files of all grids by name, CLAIM/NAME."""
    files = {}
    for path in sorted(BENCHMARKS.glob("*/*.toml")):
        if "arms" in tomllib.loads(path.read_text()):
            files[f"{path.parent.name}/{path.stem}"] = path
    return files


def run_grid(name: str, path: Path) -> None:
    """Run a grid; write its result, and its table into the page."""
    say(f"== {name}")
    grid = Grid(path)
    known = notes(grid)
    table, failures = ablate(path)
    result = measured(grid)
    if path.parent.name == "recipe":
        table, against_stock = compared_with_stock(grid)
        result |= against_stock
        result["seeds"]["trainings"] |= dict.fromkeys(STOCKS, grid.ablation.seeds)
    result = {"environment": environment_of(grid, is_new=notes(grid) != known), **result}
    result.pop("moved")  # contains texts of the data sets
    result_path = new_result(path.parent / "results", path.stem, result["environment"])
    write_json(result_path, result)
    section = f"{table}\n\n{caption(result, result_path)}".replace("###", "####")  # below the page's own headings
    put_into(PAGE, mark_of(name), section)
    print(f"## {name}\n\n{table}\n")
    for failure in failures:
        say(f"failed: {failure}")


def mark_of(name: str) -> str:
    """Return the mark in the page above the grid's table."""
    return f"python -m benchmarks.grids {name}"


def notes(grid: Grid) -> dict[Path, str]:
    """Return the notes on the measured trainings and their settings, including stock trainings."""
    return {path: path.read_text() for path in grid.folder.parent.glob(f"{grid.ablation.name}*/**/cell.json")}


def environment_of(grid: Grid, is_new: bool) -> dict[str, Any]:
    """Return the environment of the grid's last training: the present one if that training is new."""
    kept = grid.folder / "environment.json"
    if is_new or not kept.exists():
        write_json(kept, environment("torch", "transformers", "sentence-transformers", "peft"))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def measured(grid: Grid) -> dict[str, Any]:
    """Return the grid's table with the seconds and tokens of its stages; a shared stage counts once."""
    table = json.loads((grid.folder / "table.json").read_text())
    stages = {}
    for folder in grid.donors:
        if folder != grid.run_folder:
            for name, entry in json.loads((folder / "manifest.json").read_text()).items():
                stages[name, entry["fingerprint"]] = entry
    return {
        "seconds": round(sum(entry["seconds"] for entry in stages.values())),
        "tokens": sum(entry["tokens"] for entry in stages.values()),
        **table,
    }


def caption(result: dict[str, Any], path: Path) -> str:
    """Return the lines below a table: the chosen learning rates, the cost of the grid, its commit.

    Args:
        result: the measurements.
        path: the result file, which the caption links to.
    """
    rates = result.get("stock_learning_rates", {}) | result["tuned"].get("training.learning_rate", {})
    taken = "; ".join(f"*{arm}* {rate:g}" for arm, rate in rates.items())
    rated = f"Learning rates: {taken}. " if taken else ""
    cost = f"{result['seconds']:,} s and {result['tokens']:,} tokens of the language model"
    figures = f"[figures](../{path.relative_to(BENCHMARKS.parent).as_posix()})"
    measured_at = result["environment"]
    changed = f" with changes that it does not have ({changes})" if (changes := measured_at.get("changes")) else ""
    return f"{rated}{cost}; commit {measured_at['commit']}{changed} ({figures})."


def compared_with_stock(grid: Grid) -> tuple[str, dict[str, Any]]:
    """Compare the arms of a grid with the stock sentence-transformers trainer, which is the baseline.

    Returns:
        The tables as text and as values.
    """
    rates, trainings = {}, {}
    for name, stock in STOCKS.items():
        rates[name], trainings[name] = run_stock(grid, stock)
    for name in grid.ablation.arms:
        trainings[name] = [cell.folder for cell in grid.cells({}) if cell.arm == name]
    arms = []
    for name, folders in trainings.items():
        arms.append(Arm(name, [read_run(folder)[1] for folder in folders]))
    base, _ = read_run(trainings[arms[0].name][0])
    comparison = compare([arms[0], Arm(BASE, [base]), *arms[1:]], SEED)
    return tables(comparison), {"stock_learning_rates": rates, **comparison.to_json()}


if __name__ == "__main__":
    try:
        main()
    except MultigrainError as error:
        complain(str(error))
        sys.exit(error.exit_code)
