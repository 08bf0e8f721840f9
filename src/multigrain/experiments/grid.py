"""A grid of trainings: read and check its file, and make a run of each cell.

    name = "curriculum"
    run = "medquad.toml"            # the run that the arms vary
    seeds = [1, 2, 3]               # one training of each arm per seed
    baseline = "in-batch"           # the arm that the others are compared with; by default the first

    [arms.in-batch]                 # tables as in the run's file; they override the run's
    training = { schedule = "in-batch" }

    [arms.coarse-to-fine]
    training = { schedule = "coarse-to-fine" }

    [tune]                          # optional: choose a setting for each arm, by one more training per value
    key = "training.learning_rate"
    values = [2e-5, 5e-5, 1e-4]
    task = "beir:medquad:dev"

A cell is one arm with one seed, and a run of its own.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multigrain.config import Config, explained, read_settings, read_toml, resolve_paths, validated
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.sources import PYTHON_DOCS
from multigrain.errors import ConfigError, RunError
from multigrain.experiments.arm_settings import settings_of_arms, with_values
from multigrain.experiments.cells import Cell, seed_label, tuning_label
from multigrain.experiments.settings import Ablation, folder_of
from multigrain.pipeline.preflight import require, require_tasks
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages.data import passages_by_source, read_data, read_given


class Grid:
    """The cells of a grid.

    Args:
        path: the grid's TOML file.

    Raises:
        ConfigError: lists every fault of the file, of the run and of each arm.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ablation = read_ablation(path)
        run_path = path.parent / self.ablation.run  # keeps `..`: data paths are part of cell fingerprints
        run_settings, faults = read_settings(run_path)
        self._run = validated(run_settings, run_path, faults)
        if self.folder == self.run_folder:
            fault = (
                f"name: {self.ablation.name} is the name of the run too, and they would share a folder; give another"
            )
            raise ConfigError(path, [fault])
        self._arms = settings_of_arms(path, run_settings, self.ablation.arms)
        try:
            tuning = self.all_tuning_cells()
        except ConfigError as error:
            raise ConfigError(path, [f"tune: {fault}" for fault in error.faults]) from None
        one_of_each_arm = self.cells({})[: len(self._arms)]  # the seed makes no difference
        for cell in [*tuning, *one_of_each_arm]:
            require(cell.config)

    def require_inputs(self) -> None:
        """Read the data and the tasks of all arms, each once, before hours are spent on tuning.

        Raises:
            MultigrainError: something is missing or damaged.
        """
        configs: dict[tuple[str, str], Config] = {}
        for cell in [*self.all_tuning_cells(), *self.cells(self.last_tuned)]:
            configs[repr(cell.config.data), repr(cell.config.evaluation.tasks)] = cell.config
        for config in configs.values():
            require_tasks(config)
            if config.data.written_sources:
                read_given(config)
                passages_by_source(config)
            elif config.synthesis.mode == "corpus":
                sample_passages(config)
            elif config.synthesis.mode == "negatives" and config.data.pairs != PYTHON_DOCS:
                read_data(config)

    @property
    def folder(self) -> Path:
        """The folder that holds all files of the grid."""
        return Path(self._run.output) / self.ablation.name

    @property
    def run_folder(self) -> Path:
        """The folder of the run that the arms vary; the run may exist by itself."""
        return self._run.folder

    @property
    def donors(self) -> list[Path]:
        """Folders whose stages may be reused: the run's own, and those of all cells."""
        cells = sorted(path.parent for path in self.folder.glob("*/*/manifest.json"))
        return [folder for folder in (self.run_folder, *cells) if _has_stages(folder)]

    def cells(self, tuned: dict[str, Any]) -> list[Cell]:
        """Return all reported cells, seed by seed, so that an unfinished grid has all arms.

        Args:
            tuned: the chosen value of each arm.
        """
        tune = self.ablation.tune
        cells: list[Cell] = []
        for seed in self.ablation.seeds:
            for arm in self._arms:
                values: dict[str, Any] = {"training.seed": seed}
                if tune and arm in tuned:
                    values[tune.key] = tuned[arm]
                cells.append(self._cell(arm, seed_label(seed), values))
        return cells

    def tuning_cells(self, arm: str) -> list[tuple[Any, Cell]]:
        """Return the trainings by which the arm's setting is chosen, each with its value."""
        tune = self.ablation.tune
        if tune is None:
            return []
        common = {"training.seed": tune.seed, "evaluation.tasks": [self._tuning_task]}
        cells: list[tuple[Any, Cell]] = []
        for number, value in enumerate(tune.values, 1):
            cells.append((value, self._cell(arm, tuning_label(number, value), {**common, tune.key: value})))
        return cells

    def all_tuning_cells(self) -> list[Cell]:
        """Return the trainings by which the settings of all arms are chosen."""
        return [cell for arm in self._arms for _, cell in self.tuning_cells(arm)]

    @property
    def last_tuned(self) -> dict[str, Any]:
        """The chosen value of each arm when the table was last written."""
        try:
            tuned: dict[str, dict[str, Any]] = json.loads((self.folder / "table.json").read_bytes())["tuned"]
            return next(iter(tuned.values()), {})
        except (OSError, ValueError, LookupError, TypeError):  # missing, or damaged
            return {}

    @property
    def caveat(self) -> str | None:
        """A warning about the figures, if a setting is chosen on a task of the table."""
        if self.ablation.tune is None or self._tuning_task not in self.cells({})[0].config.evaluation.tasks:
            return None
        return "tune.task is also in the table, where its figures will be slightly too good; better tune on another"

    @property
    def _tuning_task(self) -> str:
        assert self.ablation.tune is not None
        table: dict[str, Any] = {"evaluation": {"tasks": [self.ablation.tune.task]}}
        if faults := resolve_paths(table, self._path.parent):
            raise ConfigError(self._path, faults)
        task: str = table["evaluation"]["tasks"][0]
        return task

    def _cell(self, arm: str, label: str, values: dict[str, Any]) -> Cell:
        place = {"name": label, "output": str(self.folder / folder_of(arm))}
        return Cell(arm, label, validated(with_values(self._arms[arm], values) | place, self._path))


def read_ablation(path: Path) -> Ablation:
    """Read the TOML file of a grid.

    Raises:
        ConfigError: lists every fault of the file.
    """
    settings = read_toml(path)
    if "arms" not in settings:
        raise ConfigError(path, ["no [arms]; wanted the file of a grid. For the file of a run, use: multigrain run"])
    try:
        return Ablation.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(path, explained(error, Ablation)) from None


def _has_stages(folder: Path) -> bool:
    try:
        return bool(RunDir(folder).stages())
    except RunError:  # damaged
        return False
