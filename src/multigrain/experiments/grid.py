"""What a grid of trainings varies: read its file, check all of it, and make a run of each cell.

    name = "curriculum"
    run = "medquad.toml"            # the run that the arms vary
    seeds = [1, 2, 3]               # of the trainings
    baseline = "in-batch"           # the arm that the others are compared with; by default the first

    [arms.in-batch]                 # tables as in the run's file; an arm wins over the run
    training = { schedule = "in-batch" }

    [arms.coarse-to-fine]
    training = { schedule = "coarse-to-fine" }

    [tune]                          # optional: of each arm, by one more training for each value
    key = "training.learning_rate"
    values = [2e-5, 5e-5, 1e-4]
    task = "beir:medquad:dev"

A cell is one arm with one seed, and a run of its own.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multigrain.config import OUTCOME_NEUTRAL, Config, explained, read_settings, read_toml, resolve_paths, validated
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.sources import PYTHON_DOCS
from multigrain.errors import ConfigError, RunError
from multigrain.evaluation.tasks import HELD_OUT
from multigrain.experiments.results import read_run
from multigrain.experiments.settings import Ablation, folder_of
from multigrain.pipeline.freshness import inputs_digest
from multigrain.pipeline.preflight import require, require_tasks
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages.data import read_data
from multigrain.terminal import named


@dataclass(frozen=True)
class Cell:
    """One training: an arm with a seed, as a run of its own."""

    arm: str
    label: str
    config: Config

    @property
    def folder(self) -> Path:
        """Of its run."""
        return self.config.folder

    @property
    def note(self) -> Path:
        """Says that the cell is measured."""
        return self.folder / "cell.json"

    @property
    def fingerprint(self) -> str:
        """A digest of all that decides the outcome, but for our own code."""
        settings = self.config.model_dump(exclude={**OUTCOME_NEUTRAL, "name": True, "output": True})
        return Config.digest([settings, inputs_digest(self.config)])

    @property
    def is_done(self) -> bool:
        """Whether it is measured, with these settings and data."""
        try:
            read_run(self.folder)
        except RunError:  # not there, or damaged by somebody
            return False
        return self.noted == self.fingerprint

    @property
    def noted(self) -> str | None:
        """The fingerprint with which it was measured."""
        try:
            return str(json.loads(self.note.read_text(encoding="utf-8"))["fingerprint"])
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
            return None


class Grid:
    """The cells of an ablation.

    Args:
        path: its TOML file.

    Raises:
        ConfigError: with every fault of the file, of the run and of each arm.
    """

    def __init__(self, path: Path) -> None:
        settings = read_toml(path)
        if "arms" not in settings:
            raise ConfigError(path, ["no [arms]; wanted a grid's file. That of a run goes to: multigrain run"])
        try:
            self.ablation = Ablation.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(path, explained(error, Ablation)) from None
        self._path = path
        self._run_path = path.parent / self.ablation.run
        self._base, faults = read_settings(self._run_path)
        self._run = validated(self._base, self._run_path, faults)
        if self.folder == self.run_folder:
            fault = f"name: {self.ablation.name} is the name of the run too, whose folder it would share; give another"
            raise ConfigError(path, [fault])
        self._arms = self._settings_of_arms()
        try:
            tuning = self.all_tuning_cells()
        except ConfigError as error:
            raise ConfigError(path, [f"tune: {fault}" for fault in error.faults]) from None
        for cell in [*tuning, *self.cells({})[: len(self._arms)]]:  # seeds make no difference
            require(cell.config)

    def require_inputs(self) -> None:
        """Read the data and the tasks of all arms, each once: better now than after hours of tuning.

        Raises:
            MultigrainError: something is not there, or damaged.
        """
        cells = [*self.all_tuning_cells(), *self.cells(self.last_tuned)]
        each = {(repr(cell.config.data), repr(cell.config.evaluation.tasks)): cell.config for cell in cells}
        for config in each.values():
            require_tasks(config)
            if config.synthesis.mode == "corpus":
                sample_passages(config)
            elif config.synthesis.mode == "negatives" and config.data.pairs != PYTHON_DOCS:
                read_data(config)

    @property
    def folder(self) -> Path:
        """Where everything of the grid lies."""
        return Path(self._run.output) / self.ablation.name

    @property
    def run_folder(self) -> Path:
        """Of the run that the arms vary, which may have been run by itself."""
        return self._run.folder

    @property
    def donors(self) -> list[Path]:
        """Folders whose stages may be taken over: the run's own, and those of all cells."""
        cells = sorted(path.parent for path in self.folder.glob("*/*/manifest.json"))
        return [folder for folder in (self.run_folder, *cells) if _has_stages(folder)]

    def cells(self, tuned: dict[str, Any]) -> list[Cell]:
        """All cells that are reported, seed by seed, so that an unfinished grid has all arms.

        Args:
            tuned: the chosen value of each arm.
        """
        return [
            self._cell(arm, f"seed-{seed}", {"training.seed": seed} | self._chosen(arm, tuned))
            for seed in self.ablation.seeds
            for arm in self._arms
        ]

    def tuning_cells(self, arm: str) -> list[tuple[Any, Cell]]:
        """The trainings by which the arm's setting is chosen, each with its value."""
        tune = self.ablation.tune
        if tune is None:
            return []
        common = {"training.seed": tune.seed, "evaluation.tasks": [self._tuning_task]}
        return [
            (value, self._cell(arm, _label(number, value), common | {tune.key: value}))
            for number, value in enumerate(tune.values, 1)
        ]

    def all_tuning_cells(self) -> list[Cell]:
        """Those of all arms."""
        return [cell for arm in self._arms for _, cell in self.tuning_cells(arm)]

    @property
    def last_tuned(self) -> dict[str, Any]:
        """The value of each arm that was chosen when the table was last written."""
        try:
            tuned: dict[str, dict[str, Any]] = json.loads((self.folder / "table.json").read_bytes())["tuned"]
            return next(iter(tuned.values()), {})
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
            return {}

    @property
    def caveat(self) -> str | None:
        """What must be said of the figures, where a setting is chosen on a task of the table."""
        if self.ablation.tune is None or self._tuning_task not in self.cells({})[0].config.evaluation.tasks:
            return None
        return "tune.task is in the table too; figures there will be a little too good. Better tune on another"

    @property
    def _tuning_task(self) -> str:
        assert self.ablation.tune is not None
        table: dict[str, Any] = {"evaluation": {"tasks": [self.ablation.tune.task]}}
        if faults := resolve_paths(table, self._path.parent):
            raise ConfigError(self._path, faults)
        task: str = table["evaluation"]["tasks"][0]
        return task

    def _chosen(self, arm: str, tuned: dict[str, Any]) -> dict[str, Any]:
        return {self.ablation.tune.key: tuned[arm]} if self.ablation.tune and arm in tuned else {}

    def _settings_of_arms(self) -> dict[str, dict[str, Any]]:
        arms: dict[str, dict[str, Any]] = {}
        faults: list[str] = []
        for name, own in self.ablation.arms.items():
            faults += [f"arms.{name}.{fault}" for fault in resolve_paths(own, self._path.parent)]
            arms[name] = merged(self._base, own)
            try:
                validated(arms[name], name)
            except ConfigError as error:
                faults += [f"arms.{name}.{fault}" for fault in error.faults]
        if faults:
            raise ConfigError(self._path, faults)
        self._require_comparable(arms)
        return arms

    def _require_comparable(self, arms: dict[str, dict[str, Any]]) -> None:
        """All arms must be measured on the same: better now than after hours of training."""
        first, *others = ((name, _measured_on(settings)) for name, settings in arms.items())
        for name, asked in others:
            for key, value in asked.items():
                if value != first[1][key]:
                    fault = (
                        f"arms.{name}: {key} differs from that of {named([first[0]])}, so they could not be compared"
                    )
                    raise ConfigError(self._path, [fault])

    def _cell(self, arm: str, label: str, changes: dict[str, Any]) -> Cell:
        settings = self._arms[arm]
        for key, value in changes.items():
            section, name = key.split(".")
            settings = merged(settings, {section: {name: value}})
        place = {"name": label, "output": str(self.folder / folder_of(arm))}
        return Cell(arm, label, validated(settings | place, self._path))


def _label(number: int, value: Any) -> str:
    """The name of a tuning cell's folder: its value, where that can be a name, else which of the values it is."""
    return f"tune-{value}" if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", str(value)) else f"tune-value-{number}"


def _has_stages(folder: Path) -> bool:
    try:
        return bool(RunDir(folder).stages())
    except RunError:  # damaged by somebody
        return False


def _measured_on(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides which items a run is measured on. Without a corpus, the training pairs are searched too."""
    tasks = settings.get("evaluation", {}).get("tasks", [HELD_OUT])
    of_training = ("limit", "drop_leaked") if "corpus" in settings["data"] else ()
    data = {key: value for key, value in settings["data"].items() if key not in of_training}
    return {"evaluation.tasks": tasks} | ({"data": data} if HELD_OUT in tasks else {})


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with the changes in them: tables are merged, anything else is replaced.

    >>> merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})
    {'a': {'b': 3, 'c': 2}, 'd': [2]}
    """
    result = dict(settings)
    for key, value in changes.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result
