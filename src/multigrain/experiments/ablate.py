"""Train and measure a grid, the arms x seeds of one run, in one table.

Work that arms share is done once. A finished cell is never done again, so the same command resumes after any
interruption.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from multigrain.config import as_path
from multigrain.errors import ConfigError, MultigrainError, RunError
from multigrain.experiments.cells import Cell
from multigrain.experiments.compare_runs import SEED, bases_of, training_log, write_table
from multigrain.experiments.comparison import Arm, Comparison, compare
from multigrain.experiments.grid import Grid
from multigrain.experiments.plots import reason_for_none, write_plots, written
from multigrain.experiments.results import RunScores, read_run, tuned_score
from multigrain.experiments.tables import tables
from multigrain.files import write_json
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from multigrain.terminal import counted, named, say
from multigrain.training.grade_schedules import phases_of


def ablate(path: str | Path, force: bool = False) -> tuple[str, list[str]]:
    """Train and measure all cells of a grid that are not done yet.

    Args:
        path: the grid's TOML file.
        force: redo cells that were done with other settings.

    Returns:
        The tables as Markdown, and a line for each cell that failed.

    Raises:
        MultigrainError: see `Grid`; or all cells failed.
    """
    comparison, failures = compared(path, force)
    return tables(comparison), failures


def compared(path: str | Path, force: bool = False) -> tuple[Comparison, list[str]]:
    """Train and measure as `ablate` does; return the figures instead of tables.

    Raises:
        MultigrainError: see `ablate`.
    """
    grid = Grid(as_path(path, "an ABLATION.toml"))
    if caveat := grid.caveat:
        say(f"{path}: {caveat}")
    with RunDir(grid.folder).lock():
        if not all(cell.is_done for cell in grid.cells(grid.last_tuned)):
            grid.require_inputs()
        return _ablate(grid, force)


def _ablate(grid: Grid, force: bool) -> tuple[Comparison, list[str]]:
    runner = _CellRunner(grid, force)
    tuned: dict[str, Any] = {}
    for arm in grid.ablation.arms:
        value = runner.choose(arm)
        if value is not None:
            tuned[arm] = value
    cells = [cell for cell in grid.cells(tuned) if cell.arm not in runner.not_tuned]
    comparison = None
    for _, cells_of_seed in groupby(cells, key=lambda cell: cell.label):
        outcomes = [runner.do(cell) for cell in cells_of_seed]
        if "new" in outcomes:
            comparison = _write_table(grid, cells, tuned)
    if not any(cell.is_done for cell in cells):
        raise RunError(f"{grid.folder}: no cell could be measured: {'; '.join(runner.failures)}")
    for folder in grid.donors:  # hard-linked between runs: only removing all of them frees the space
        if folder != grid.run_folder and not grid.ablation.keep_models:
            shutil.rmtree(RunDir(folder).frozen, ignore_errors=True)
    comparison = comparison or _write_table(grid, cells, tuned)  # the last table written has all cells
    first = {cell.arm: cell.folder for cell in reversed(cells) if cell.is_done}
    logs = {arm: training_log(folder) for arm, folder in first.items()}
    graded = {arm: read_run(folder) for arm, folder in first.items()}
    say(written(grid.folder, write_plots(comparison, logs, graded, grid.folder), "the same command"))
    return comparison, runner.failures


class _CellRunner:
    """Runs the cells one after another, and tracks the progress of the grid."""

    def __init__(self, grid: Grid, force: bool) -> None:
        self._grid = grid
        self._force = force
        self._total = len(grid.all_tuning_cells()) + len(grid.cells({}))
        self._seen = 0
        self._seconds: list[float] = []
        self.failures: list[str] = []
        self.not_tuned: set[str] = set()
        """Arms for which a value of the tuned setting failed; they are not reported."""

    def choose(self, arm: str) -> Any:
        """Return the best value of the tuned setting for an arm.

        Return None if nothing is tuned, or if a value failed.
        """
        cells = self._grid.tuning_cells(arm)
        outcomes = [self.do(cell) for _, cell in cells]
        if "failed" in outcomes:
            self.not_tuned.add(arm)
        tune = self._grid.ablation.tune
        if tune is None or arm in self.not_tuned:
            return None
        scores = [(value, tuned_score(cell.folder)) for value, cell in cells]
        value, best = max(scores, key=lambda scored: scored[1])
        say(f"{arm}: {tune.key} = {value} ({best:.4f} on {tune.task})")
        return value

    def do(self, cell: Cell) -> Literal["known", "new", "failed"]:
        """Train and measure a cell, unless that is done already."""
        self._seen += 1
        if cell.is_done:
            return "known"
        if cell.noted not in (None, cell.fingerprint) and not self._force:
            changed = "; ".join(RunDir(cell.folder).changed(cell.config)) or "other data, prompts or models"
            fault = f"was measured with other settings ({changed}). Choose another name, or use --force to redo it."
            raise ConfigError(cell.folder, [fault])
        left = self._total - self._seen + 1
        rest = f", about {left * sum(self._seconds) / len(self._seconds) / 60:.0f} min left" if self._seconds else ""
        say(f"cell {self._seen} of {self._total}: {cell.arm} ({cell.label}){rest}")
        started = time.monotonic()
        _clear(cell)
        donors = [folder for folder in self._grid.donors if folder != cell.folder]
        try:
            verbs.measure(cell.config, donors, self._force)
        except MultigrainError as error:
            self.failures.append(f"{cell.arm} ({cell.label}): {error}")
            say(f"  failed: {error}")
            return "failed"
        write_json(cell.note, {"fingerprint": cell.fingerprint})
        if not self._grid.ablation.keep_models:
            _drop_models(RunDir(cell.folder))
        self._seconds.append(time.monotonic() - started)
        return "new"


def _clear(cell: Cell) -> None:
    """Remove the records that the cell is measured, because its files may be damaged."""
    cell.note.unlink(missing_ok=True)
    run_dir = RunDir(cell.folder)
    try:
        run_dir.forget("evaluate")
    except RunError:  # the manifest itself is damaged
        run_dir.manifest.unlink()
    try:
        run_dir.changed(cell.config)
    except RunError:
        run_dir.config.unlink()


def _drop_models(run_dir: RunDir) -> None:
    """Remove the model but keep its scores, because the models of a grid would fill the disk."""
    shutil.rmtree(run_dir.trained, ignore_errors=True)
    run_dir.vectors.unlink(missing_ok=True)


def _write_table(grid: Grid, cells: Sequence[Cell], tuned: dict[str, Any]) -> Comparison:
    """Write the table of the cells done so far."""
    done = [cell for cell in cells if cell.is_done]
    comparison = _compare(grid, done)
    tune = grid.ablation.tune
    chosen = {tune.key: tuned} if tune else {}
    seeds = seeds_of(grid, done)
    write_table(comparison, grid.folder, cells=len(cells), done=len(done), tuned=chosen, seeds=seeds)
    return comparison


def seeds_of(grid: Grid, done: Sequence[Cell]) -> dict[str, Any]:
    """Return all seeds: of the run, of each arm's trainings in order, of tuning, and of the resamples."""
    trainings: dict[str, list[int]] = {}
    for cell in done:
        trainings.setdefault(cell.arm, []).append(cell.config.training_seed)
    seeds: dict[str, Any] = {"run": done[0].config.seed, "trainings": trainings}
    if grid.ablation.tune:
        seeds["tuning"] = grid.ablation.tune.seed
    seeds["resamples"] = SEED
    return seeds


def _compare(grid: Grid, done: Sequence[Cell]) -> Comparison:
    bases: dict[str, RunScores] = {}
    trainings: dict[str, list[RunScores]] = {}
    for cell in done:
        base, trained = read_run(cell.folder)
        bases.setdefault(cell.arm, base)
        trainings.setdefault(cell.arm, []).append(trained)
    measured = [name for name in grid.ablation.arms if name in bases]
    arms = bases_of({name: bases[name] for name in measured})
    arms += [Arm(name, trainings[name]) for name in measured]
    baseline = grid.ablation.baseline or next(iter(grid.ablation.arms))
    arms.sort(key=lambda arm: arm.name != baseline)
    if arms[0].name != baseline:
        found = f"no training of the baseline, {named([baseline])}, could be measured"
        say(f"  {found}; differences are from {named([arms[0].name])}")
    return compare(arms, SEED)


def check_grid(path: str | Path) -> str:
    """Check the file of a grid and the settings of all its arms; return a summary of what `ablate` would do.

    Raises:
        MultigrainError: see `Grid`.
    """
    path = as_path(path, "an ABLATION.toml")
    grid = Grid(path)
    grid.require_inputs()
    arms, seeds = grid.ablation.arms, grid.ablation.seeds
    tuning = len(grid.all_tuning_cells())
    cells = grid.cells(grid.last_tuned)
    _require_steps(path, cells)
    each = f"{counted(len(arms), 'arms')} x {counted(len(seeds), 'seeds')}"
    trainings = f"{len(cells)}: {each}" + (f"; {tuning} to tune" if tuning else "")
    lines = [
        f"{grid.ablation.name}: the grid is valid",
        f"  arms        {named(arms)}",
        f"  trainings   {trainings}",
        f"  evaluation  {', '.join(cells[0].config.evaluation.tasks)}",
        f"  folder      {grid.folder}: {sum(cell.is_done for cell in cells)} measured",
    ]
    if caveat := grid.caveat:
        lines.append(f"  warning     {caveat}")
    if reason := reason_for_none():
        lines.append(f"  warning     {reason}; everything else works without it")
    return "\n".join(lines)


def _require_steps(path: Path, cells: Iterable[Cell]) -> None:
    """Check that every arm has enough steps for its phases; `ablate` itself would continue with the other arms.

    Raises:
        ConfigError: an arm has too few; the message names the first.
    """
    for cell in cells:
        try:
            phases_of(cell.config.training)
        except ConfigError as error:
            raise ConfigError(f"{path}: arm {cell.arm}", str(error).splitlines()) from None
