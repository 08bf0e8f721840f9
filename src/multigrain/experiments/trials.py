"""The trials of `tune`: trainings without the dev queries, each in its own folder, and their scores on the dev queries.

A finished trial is never done again: its folder keeps its scores, and the seconds that it took.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from multigrain.config import Config
from multigrain.data.beir import RetrievalTask
from multigrain.errors import ConfigError
from multigrain.evaluation.evaluate import evaluate
from multigrain.evaluation.metrics import NDCG
from multigrain.experiments.dev_part import DevPart
from multigrain.experiments.recipes import Settings
from multigrain.files import link_or_copy, write_json
from multigrain.model.files import model_digest
from multigrain.pipeline.encoders import trained_encoder
from multigrain.pipeline.recipe import with_training
from multigrain.pipeline.reuse import link_all, share_answers
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_files import training_models
from multigrain.pipeline.stages.train import train

NOTHING: dict[str, Any] = {"seconds": {}, "scores": {}}


class Measured(NamedTuple):
    """The result of a trial."""

    scores: list[float]
    """nDCG@10 of each dev query, in the order of the task."""
    seconds: float
    """Seconds that the training and all measurements up to this one took."""


class Trials:
    """The trials of a run.

    Args:
        config: the run.
        run_dir: its folder.
        part: the dev queries, and the data to train on.
    """

    def __init__(self, config: Config, run_dir: RunDir, part: DevPart) -> None:
        self._config, self._part, self._adapted = config, part, run_dir.adapted
        self._folder = run_dir.folder / "tune" / "trials"
        self._tasks: dict[int, RetrievalTask] = {}
        self._seconds: dict[tuple[Path, str], float] = {}

    @property
    def spent(self) -> float:
        """Seconds of all trials asked for, including those of an earlier process."""
        return sum(self._seconds.values())

    def measured(self, settings: Settings, steps: int, seed: int, size: int) -> Measured:
        """Train with the settings, unless that is done, and measure on the first `size` dev queries.

        Raises:
            ConfigError: the settings contradict each other.
            RunError: see `multigrain.training.train`.
        """
        config = self._config_of(settings, steps, seed)
        run_dir = RunDir(config.folder)
        inputs = f"{config.fingerprint('seed', 'model', 'training', 'judging', 'evaluation')} {self._part.inputs}"
        inputs += "".join(f" {model_digest(name)}" for name in training_models(config))
        note = self._note(run_dir, inputs)
        if str(size) not in note["scores"]:
            if "training" not in note["seconds"] or not run_dir.trained.is_dir():
                note = self._train(config, run_dir, note)
            note = self._measure(config, run_dir, note, size)
        for work in ("training", str(size)):
            self._seconds[run_dir.folder, work] = note["seconds"][work]
        own = sum(seconds for (folder, _), seconds in self._seconds.items() if folder == run_dir.folder)
        return Measured(note["scores"][str(size)], own)

    def remove_models(self) -> None:
        """Remove the models of all trials and their vectors, which would fill the disk."""
        for folder in self._folder.glob("*"):
            shutil.rmtree(RunDir(folder).trained, ignore_errors=True)
            shutil.rmtree(RunDir(folder).vectors.parent, ignore_errors=True)

    def remove_what_is_large(self) -> None:
        """Remove large files that only further trials could use."""
        self.remove_models()
        for folder in self._folder.glob("*"):
            shutil.rmtree(RunDir(folder).frozen, ignore_errors=True)

    def _config_of(self, settings: Settings, steps: int, seed: int) -> Config:
        more = {"steps": steps, "seed": seed, "recipe": "fixed", "evaluate": False, "report_to": []}
        try:
            config = with_training(self._config, {**settings, **more})
        except ValidationError as error:
            raise ConfigError("tune", [f"{settings}: {error.errors()[0]['msg']}"]) from None
        name = Config.digest([settings, steps, seed])
        return config.model_copy(update={"name": name, "output": str(self._folder)})

    def _note(self, run_dir: RunDir, inputs: str) -> dict[str, Any]:
        """Return the trial's record; an empty one if it was done with other settings or data."""
        try:
            note: dict[str, Any] = json.loads(_note_of(run_dir).read_bytes())
            return note if note["inputs"] == inputs else {"inputs": inputs, **NOTHING}
        except (OSError, ValueError, LookupError, TypeError):  # missing, or damaged
            return {"inputs": inputs, **NOTHING}

    def _train(self, config: Config, run_dir: RunDir, note: dict[str, Any]) -> dict[str, Any]:
        """Train a trial; an interrupted one resumes from its last checkpoint."""
        started = time.monotonic()
        part = RunDir(self._part.folder)
        for source in (*part.pair_files(), part.corpus, part.tuples):
            path = run_dir.folder / source.relative_to(part.folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            link_or_copy(source, path)
        if config.adapt is not None:
            link_all(self._adapted, run_dir.adapted)
        run_dir.claim(config, accept=True)
        others = [RunDir(folder) for folder in sorted(self._folder.glob("*")) if folder != run_dir.folder]
        share_answers([part, *others], config, run_dir)
        train(config, run_dir)
        shutil.rmtree(run_dir.training / "checkpoints", ignore_errors=True)
        note = {**note, "seconds": {**note["seconds"], "training": time.monotonic() - started}}
        write_json(_note_of(run_dir), note)
        return note

    def _measure(self, config: Config, run_dir: RunDir, note: dict[str, Any], size: int) -> dict[str, Any]:
        started = time.monotonic()
        if size not in self._tasks:
            self._tasks[size] = self._part.task(size)
        task = self._tasks[size]
        embed = trained_encoder(run_dir.trained, run_dir.vectors, config.evaluation.precision)
        found = evaluate(task, embed).scores
        scores = {**note["scores"], str(size): [round(found[query][NDCG], 6) for query in task.queries]}
        seconds = {**note["seconds"], str(size): time.monotonic() - started}
        note = {**note, "seconds": seconds, "scores": scores}
        write_json(_note_of(run_dir), note)
        return note


def _note_of(run_dir: RunDir) -> Path:
    return run_dir.folder / "trial.json"
