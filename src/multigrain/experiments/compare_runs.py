"""Compare runs, and write the comparison as Markdown, JSON and plots. Does not import torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multigrain.config import as_path, require_extendable_folder, run_folder_of
from multigrain.data.jsonl import read_objects
from multigrain.errors import ConfigError, DataError, RunError
from multigrain.experiments.comparison import Arm, Comparison, compare
from multigrain.experiments.plots import write_plots, written
from multigrain.experiments.results import RunScores, read_run
from multigrain.experiments.tables import to_markdown
from multigrain.files import atomic_folder, full_disk_explained, write_atomic, write_json
from multigrain.terminal import say

BASE = "base, not trained"
SEED = 7
"""Seed of the bootstrap resamples and of the randomization test."""


def compare_runs(folders: str | Path | Sequence[str | Path], out: str | Path | None = None, force: bool = False) -> str:
    """Compare the models of several runs, and their bases, with the first run's; return the table as Markdown.

    Args:
        folders: run folders or their model folders, the baseline first; a single run is compared with its base.
        out: a folder for `table.md`, `table.json`, and plots if matplotlib is installed.
        force: write into an existing folder; its other files stay.

    Raises:
        RunError: a run is not measured, or the runs have no task in common.
        ConfigError: the folder to write exists already, or a run is named twice.
    """
    return to_markdown(compared_runs(folders, out, force))


def compared_runs(
    folders: str | Path | Sequence[str | Path], out: str | Path | None = None, force: bool = False
) -> Comparison:
    """Compare as `compare_runs` does; return the figures instead of text."""
    several = [folders] if isinstance(folders, str | Path) else folders
    return _compared([run_folder_of(place) for place in several], _free(out, force))


def _free(out: str | Path | None, force: bool) -> Path | None:
    """Return the folder to write, or None if none is asked for.

    Raises:
        ConfigError: it exists, and may not be written to.
    """
    folder = None if out is None else as_path(out, "a folder to write")
    if folder is not None:
        require_extendable_folder(folder, force)
    return folder


def _compared(folders: Sequence[Path], out: Path | None) -> Comparison:
    if not folders:
        raise ConfigError("compare", ["found no run; wanted one or more run folders"])
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("compare", ["a run is named twice; give each once"])
    for folder in folders:
        if cells := sorted(note.parent for note in folder.glob("*/**/cell.json")):
            raise RunError(f"{folder}: is a grid. Give individual trainings of it, such as {cells[0]}")
    names = _names(folders)
    if taken := [name for name in names if name.endswith(BASE)]:
        fault = f'"{taken[0]}" is the name of the model before training; rename the run folder'
        raise ConfigError("compare", [fault])
    runs = dict(zip(names, map(read_run, folders), strict=True))
    arms = [Arm(name, [trained]) for name, (_, trained) in runs.items()]
    bases = bases_of({name: base for name, (base, _) in runs.items()})
    comparison = compare([arms[0], *bases, *arms[1:]], SEED)
    measured: set[str] = set()
    for _, trained in runs.values():
        measured |= trained.scores.keys()
    if left_out := measured - comparison.tasks.keys():
        say(f"left out, because some runs were not measured on it: {', '.join(sorted(left_out))}")
    if out is not None:
        logs = {name: training_log(folder) for name, folder in zip(runs, folders, strict=True)}
        with full_disk_explained(out.absolute().parent), atomic_folder(out, keep_others=True) as folder:
            write_table(comparison, folder)
            no_plots = write_plots(comparison, logs, runs, folder)
        say(written(out, no_plots, "the same command with --force"))
    return comparison


def write_table(comparison: Comparison, folder: Path, **more: Any) -> None:
    """Write `table.md`, and `table.json` with the fields of `more` added."""
    write_json(folder / "table.json", {**more, **comparison.to_json()})
    write_atomic(folder / "table.md", f"{to_markdown(comparison)}\n".encode())


def training_log(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's training log; none if it is missing or damaged, because only a plot needs it."""
    try:
        lines = [line for _, line in read_objects(folder / "training" / "log.jsonl")]
        return lines if all(isinstance(line.get("step"), int) for line in lines) else []
    except (DataError, OSError):
        return []


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or as many last parts as tell the paths apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def bases_of(bases: Mapping[str, RunScores]) -> list[Arm]:
    """Return the models before training, one for each run or arm; only one if all score the same on shared tasks."""
    first, *others = bases.values()
    shared = [task for task in first.scores if all(task in other.scores for other in others)]
    if all(other.scores[task] == first.scores[task] for other in others for task in shared):
        return [Arm(BASE, [first])]
    return [Arm(f"{name}, {BASE}", [base]) for name, base in bases.items()]
