"""All grids by one command, or those that are named.

    python -m benchmarks.ablations [GRID ...]

The grids of the folder gpu want a GPU, and are run by name alone: gpu/c_pooling_smollm2.

Interrupt it whenever you like: the same command goes on. A grid's table goes to benchmarks/results/ablations/NAME.json,
with what it was measured with and what it took, and into docs/results.md; a recipe is compared with
sentence-transformers' own trainer (stock.py) too. Needs MULTIGRAIN_DATA (see data.py).
"""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.ablations import data
from benchmarks.ablations.stock import STOCKS, run_stock
from benchmarks.environment import environment, parser_of, require_commit
from benchmarks.pages import around, put_into
from multigrain.errors import MultigrainError
from multigrain.experiments.ablate import ablate
from multigrain.experiments.arms import Arm, compare
from multigrain.experiments.compare import BASE, SEED
from multigrain.experiments.grid import Grid
from multigrain.experiments.results import read_run
from multigrain.experiments.tables import tables
from multigrain.files import write_json
from multigrain.progress import complain, say

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "ablations"
PAGE = HERE.parents[1] / "docs" / "results.md"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "grids", nargs="*", metavar="GRID", help="such as a_curriculum_snli; by default all but those for a GPU"
    )
    files = [path for path in sorted(HERE.rglob("*.toml")) if "arms" in tomllib.loads(path.read_text())]
    paths = {str(path.relative_to(HERE).with_suffix("")): path for path in files}
    options = parser.parse_args()
    names = options.grids or [name for name, path in paths.items() if path.parent == HERE]
    if unknown := [name for name in names if name not in paths]:
        parser.error(f"no grid {unknown[0]}; there are {', '.join(paths)}")
    require_commit(options)
    for name in names:
        around(PAGE, mark_of(name))
    os.environ.setdefault("MULTIGRAIN_DATA", str(data.SOURCES.absolute()))  # for the paths in the grids
    if not data.LAST.exists():
        data.main()
    for name in names:
        say(f"== {name}")
        grid = Grid(paths[name])
        known = notes(grid)
        table, failures = ablate(paths[name])
        result = measured(grid)
        if name.startswith("recipe"):
            table, against_stock = compared_with_stock(grid)
            result |= against_stock
            result["seeds"]["trainings"] |= dict.fromkeys(STOCKS, grid.ablation.seeds)
        result = {"environment": environment_of(grid, is_new=notes(grid) != known), **result}
        result.pop("moved")  # single items, which are other people's texts
        write_json(RESULTS / f"{name}.json", result)
        section = f"{table}\n\n{caption(name, result)}".replace("###", "####")  # below the page's own headings
        put_into(PAGE, mark_of(name), section)
        print(f"## {name}\n\n{table}\n")
        for failure in failures:
            say(f"failed: {failure}")


def mark_of(name: str) -> str:
    """Where the grid's table stands in the page."""
    return f"python -m benchmarks.ablations {name}"


def notes(grid: Grid) -> dict[Path, str]:
    """What says which trainings are measured, with which settings; those of stock among them."""
    return {path: path.read_text() for path in grid.folder.parent.glob(f"{grid.ablation.name}*/**/cell.json")}


def environment_of(grid: Grid, is_new: bool) -> dict[str, Any]:
    """What the grid's last training was measured with; that is now, if it is new."""
    kept = grid.folder / "environment.json"
    if is_new or not kept.exists():
        write_json(kept, environment("torch", "transformers", "sentence-transformers", "peft"))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def measured(grid: Grid) -> dict[str, Any]:
    """The grid's table, and what it took."""
    table = json.loads((grid.folder / "table.json").read_text())
    stages = [json.loads((folder / "manifest.json").read_text()) for folder in grid.donors if folder != grid.run_folder]
    shared = {(name, entry["fingerprint"]): entry for cell in stages for name, entry in cell.items()}
    return {
        "seconds": round(sum(entry["seconds"] for entry in shared.values())),
        "tokens": sum(entry["tokens"] for entry in shared.values()),
        **table,
    }


def caption(name: str, result: dict[str, Any]) -> str:
    """What stands below a table: the learning rates that were taken, and what the grid took."""
    rates = result.get("stock_learning_rates", {}) | result["tuned"].get("training.learning_rate", {})
    taken = "; ".join(f"*{arm}* {rate:g}" for arm, rate in rates.items())
    rated = f"Learning rates: {taken}. " if taken else ""
    cost = f"{result['seconds']:,} s and {result['tokens']:,} tokens of the language model"
    figures = f"[figures](../benchmarks/results/ablations/{name}.json)"
    measured_at = result["environment"]
    changed = f" with changes that it does not have ({changes})" if (changes := measured_at.get("changes")) else ""
    return f"{rated}{cost}; commit {measured_at['commit']}{changed} ({figures})."


def compared_with_stock(grid: Grid) -> tuple[str, dict[str, Any]]:
    """The arms of a grid beside sentence-transformers' own trainer, which is the baseline; as text and as values."""
    found = {name: run_stock(grid, stock) for name, stock in STOCKS.items()}
    rates = {name: rate for name, (rate, _) in found.items()}
    trainings = {name: folders for name, (_, folders) in found.items()}
    for name in grid.ablation.arms:
        trainings[name] = [cell.folder for cell in grid.cells({}) if cell.arm == name]
    arms = [Arm(name, [read_run(folder)[1] for folder in folders]) for name, folders in trainings.items()]
    base, _ = read_run(trainings[arms[0].name][0])
    comparison = compare([arms[0], Arm(BASE, [base]), *arms[1:]], SEED)
    return tables(comparison), {"stock_learning_rates": rates, **comparison.to_json()}


if __name__ == "__main__":
    try:
        main()
    except MultigrainError as error:
        complain(str(error))
        sys.exit(error.exit_code)
