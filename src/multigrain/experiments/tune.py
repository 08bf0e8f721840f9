"""Choose training settings on a dev set of the training queries, by successive halving over steps.

All recipes train for a few steps. Recipes that are clearly worse than the best (paired interval over the dev queries)
or in the lower half are dropped; the others train anew, twice as long. The best recipe is chosen if the interval of its
difference from the current settings lies above zero. If it does not, more dev queries are measured, while there are
queries and time left.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multigrain.config import Config, config_of
from multigrain.data.jsonl import read_tuples
from multigrain.errors import ConfigError, MultigrainError
from multigrain.evaluation.significance import Difference
from multigrain.experiments.dev_part import dev_part
from multigrain.experiments.halving import challenge, is_decided, shares_of
from multigrain.experiments.recipes import Settings, recipes_of
from multigrain.experiments.trials import Trials
from multigrain.experiments.tune_table import Outcome, Rung, told_settings, write_tuning
from multigrain.files import full_disk_explained
from multigrain.pipeline.recipe import with_training
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_table import SHARED, names_of
from multigrain.terminal import counted, say

FEWEST_STEPS = 20
"""Minimum number of steps in the first rung, unless the training itself is shorter."""


def tune(config: Config | str | Path, force: bool = False) -> str:
    """Choose training settings, and return the table of the recipes that were tried.

    Missing stages before the training (data, candidates, grades) run first. `train` and `run` then use the choice,
    which is in `tune/table.json`. Finished trials are never done again: after an interruption, the same command
    resumes, with the same outcome.

    Args:
        config: the run, its TOML file, or a run folder.
        force: redo stages that were done with other settings, as in `run`, and all trials.

    Raises:
        ConfigError: the settings leave nothing to choose, or contradict each other.
        DataError: there are too few training pairs.
        MultigrainError: see `multigrain.errors`.

    Example:
        >>> print(tune("run.toml"))  # doctest: +SKIP
    """
    config = config_of(config)
    _require_choice(config)
    run_stages(config, [name for name in names_of(config) if name in SHARED], force)
    run_dir = RunDir(config.folder)
    with full_disk_explained(run_dir.folder), run_dir.lock():
        if force:
            shutil.rmtree(run_dir.tuning.parent, ignore_errors=True)
        grades = {negative.grade for graded in read_tuples(run_dir.tuples) for negative in graded.negatives}
        recipes = recipes_of(config, grades)
        part = dev_part(config, run_dir)
        say(f"tune: {counted(len(recipes), 'recipes')}, {counted(len(part.queries), 'dev queries')}")
        trials = Trials(config, run_dir, part)
        outcome = Halving(config, recipes, part.sizes, trials, part.tuples).outcome()
        trials.remove_what_is_large()
        return write_tuning(config, run_dir, recipes, outcome, trials.spent)


def _require_choice(config: Config) -> None:
    """Check that training would use the choice, and can be shortened.

    Raises:
        ConfigError: it would not, or cannot.
    """
    if config.training.recipe == "fixed":
        fault = 'training.recipe: found "fixed", with which training ignores the choice of tune; remove it'
        raise ConfigError("tune", [fault])
    if any(phase.steps is not None for phase in config.training.phases):
        fault = "training.phases: found steps; tune also tries shorter trainings, so give shares instead"
        raise ConfigError("tune", [fault])


class Halving:
    """The rungs of one choice.

    Args:
        config: the run.
        recipes: the current settings, then the others.
        sizes: ascending numbers of dev queries; the next is measured if the one before decides nothing.
        trials: trains and measures.
        tuples: number of training tuples, the length of an epoch.
    """

    def __init__(
        self, config: Config, recipes: Sequence[Settings], sizes: Sequence[int], trials: Trials, tuples: int
    ) -> None:
        self._config, self._recipes, self._trials, self._tuples = config, recipes, trials, tuples
        self._sizes = list(sizes)
        self._seconds: dict[int, float] = {}
        """Seconds of the last trial of each recipe."""
        self._is_out_of_time = False

    def outcome(self) -> Outcome:
        """Go through the rungs until all steps are made, only the current settings remain, or time is up."""
        found: list[Rung] = []
        alive = list(range(len(self._recipes)))
        all_queries = self._sizes[-1]
        for share in shares_of(self._steps(0, 1.0), FEWEST_STEPS):
            if found and not self._fits(alive[:2]):
                break
            last = self._rung(alive, share)
            if found and len(last.scores) < 2:  # nothing to compare with: the rung before decides
                break
            found.append(last)
            self._trials.remove_models()
            alive = last.alive
            if len(alive) == 1 or not last.is_whole:
                break
        return Outcome(found, self._confirmed(found[-1]), self._is_out_of_time, all_queries)

    def _rung(self, alive: Sequence[int], share: float) -> Rung:
        """Train the remaining recipes, then measure them on more and more dev queries until the rung is decided."""
        found, size = Rung(share), self._sizes[0]
        scores: dict[int, list[float]] = {}
        for number in alive:
            if number and not self._fits([number]):
                found.is_whole = False
                break
            found.steps[number] = self._steps(number, share)
            try:
                scores[number] = self._scores(number, found.steps[number], size)
            except MultigrainError as error:
                if number == 0:  # without it, nothing can be compared
                    raise
                found.failed[number] = str(error)
                say(f"  failed: {error}")
        places = math.ceil((len(alive) - 1) / 2)
        found.rank(scores, places, size)
        while len(self._sizes) > 1 and not is_decided(scores) and self._fits([]):
            size = self._sizes[1]
            self._sizes.pop(0)
            left = [number for number in scores if found.standings[number].fate != "clearly worse"]
            scores = {number: self._scores(number, found.steps[number], size) for number in left}
            found.rank(scores, places, size)
        return found

    def _confirmed(self, last: Rung) -> Difference | None:
        """Compare the best recipe with the current settings again, over a second training of both.

        One training may be lucky. Return None if no recipe was to be chosen, or if there is no time.
        """
        best = challenge(last.scores)
        if best is None or best[1].low <= 0 or not self._fits([0, best[0]], longer=1):
            return None
        again = {number: self._scores(number, last.steps[number], last.queries[0], 1) for number in (0, best[0])}
        both = {number: np.array([last.scores[number], scores]) for number, scores in again.items()}
        found = challenge(both)
        return None if found is None else found[1]

    def _scores(self, number: int, steps: int, size: int, turn: int = 0) -> list[float]:
        settings, seed = self._recipes[number], (self._config.training_seed + turn) % 2**32
        say(f"tune: {told_settings(settings)}; {counted(steps, 'steps')}, {counted(size, 'dev queries')}")
        found = self._trials.measured(settings, steps, seed, size)
        self._seconds[number] = found.seconds
        return found.scores

    def _steps(self, number: int, share: float) -> int:
        section = with_training(self._config, self._recipes[number]).training
        return math.ceil(share * section.total_steps(self._tuples))

    def _fits(self, numbers: Sequence[int], longer: int = 2) -> bool:
        """Return whether trials of these recipes fit into the time, each `longer` times as long as its last trial."""
        expected = sum(longer * self._seconds.get(number, 0.0) for number in numbers)
        fits = self._trials.spent + expected <= 60 * self._config.tune.minutes
        self._is_out_of_time |= not fits
        return fits
