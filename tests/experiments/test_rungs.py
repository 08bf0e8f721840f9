"""The rungs of a choice, with trials whose scores and seconds are planted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multigrain.errors import RunError
from multigrain.experiments.trials import Measured, Trials
from multigrain.experiments.tune import Halving
from multigrain.experiments.tune_table import Outcome
from tests.config.text import GOOD, load

RUN = GOOD + "[training]\nsteps = 40\n"


class Planted(Trials):
    """Trials with planted scores and seconds: the score of each recipe is a function of its steps and its seed."""

    spent = 0.0

    def __init__(self, scores: dict[str, Any], seconds: float = 1.0) -> None:
        self.scores, self.seconds = scores, seconds
        self.asked: list[tuple[str, int, int, int]] = []

    def measured(self, settings: dict[str, Any], steps: int, seed: int, size: int) -> Measured:
        name = settings.get("schedule", "as it is")
        self.asked.append((name, steps, seed, size))
        if name not in self.scores:
            raise RunError("the loss is no number")
        self.spent += self.seconds
        drawn = np.random.default_rng(size).uniform(0, 0.1, size)
        return Measured([float(value) + self.scores[name] for value in drawn], self.seconds)

    def remove_models(self) -> None:
        pass


def halved(tmp_path: Path, trials: Planted, *sizes: int, minutes: float = 30) -> Outcome:
    config = load(tmp_path, RUN, f"tune.minutes={minutes}")
    names = ["reverse", "random", "in-batch"][: len(trials.scores) - 1]
    return Halving(config, [{}, *({"schedule": name} for name in names)], sizes, trials, tuples=640).outcome()


def test_the_rest_of_the_search_is_for_the_better_half(tmp_path: Path) -> None:
    trials = Planted({"as it is": 0.1, "reverse": 0.3, "random": 0.2, "in-batch": 0.1})
    outcome = halved(tmp_path, trials, 40)
    assert [
        [name for name, steps, seed, _ in trials.asked if (steps, seed) == case] for case in ((20, 7), (40, 7), (40, 8))
    ] == [
        ["as it is", "reverse", "random", "in-batch"],
        ["as it is", "reverse"],  # the others are clearly worse: the planted scores are of each query
        ["as it is", "reverse"],
    ]
    assert outcome.chosen == 1 and outcome.confirmed == pytest.approx((0.2, 0.2, 0.2))


def test_the_dev_part_grows_until_it_decides(tmp_path: Path) -> None:
    class Doubtful(Planted):
        def measured(self, settings: dict[str, Any], steps: int, seed: int, size: int) -> Measured:
            found = super().measured(settings, steps, seed, size)
            noise = np.random.default_rng(1).normal(0, 0.4, 500)[:size] * bool(settings)
            return Measured([a + float(b) for a, b in zip(found.scores, noise - noise.mean(), strict=True)], 1.0)

    trials = Doubtful({"as it is": 0.1, "reverse": 0.15})
    outcome = halved(tmp_path, trials, 50, 500)
    assert outcome.chosen == 1 and outcome.rungs[0].queries == {0: 500, 1: 500}
    assert [size for _, steps, _, size in trials.asked if steps == 20] == [50, 50, 500, 500]
    # The grown part stays, and without more queries it is the current settings.
    assert {size for _, steps, _, size in trials.asked if steps == 40} == {500}
    small = halved(tmp_path, Doubtful({"as it is": 0.1, "reverse": 0.15}), 50)
    assert small.chosen == 0 and small.reason.startswith("the dev set is too small to decide; the best of the other")


def test_time_ends_it_between_trials(tmp_path: Path) -> None:
    scores = {"as it is": 0.1, "reverse": 0.3, "random": 0.28}
    # Three trials of 20 s; two twice as long do not fit into the 15 s that are left.
    outcome = halved(tmp_path, Planted(scores, seconds=20), 40, minutes=1.01)
    assert len(outcome.rungs) == 1 and outcome.is_out_of_time
    assert outcome.chosen == 1 and "after 20 steps (50% of the training), by one training of each" in outcome.reason
    # There is no time for the third: what was measured decides.
    outcome = halved(tmp_path, Planted(scores, seconds=40), 40, minutes=1)
    assert [rung.is_whole for rung in outcome.rungs] == [False] and outcome.chosen == 1
    outcome = halved(tmp_path, Planted(scores, seconds=70), 40, minutes=1)
    assert outcome.chosen == 0 and outcome.reason == "no other recipe could be measured (tune.minutes ran out)"


def test_a_recipe_makes_the_steps_of_its_own_epochs(tmp_path: Path) -> None:
    """640 tuples, 8 epochs: 80 steps of 64 for the current settings, and 160 of 32."""

    class Sized(Planted):
        def measured(self, settings: dict[str, Any], steps: int, seed: int, size: int) -> Measured:
            return super().measured(settings | {"schedule": str(settings.get("batch_size"))}, steps, seed, size)

    trials = Sized({"None": 0.1, "32": 0.2})
    config = load(tmp_path, GOOD + "[training]\nepochs = 8\n")
    Halving(config, [{}, {"batch_size": 32}], [40], trials, tuples=640).outcome()
    first = [(name, steps) for name, steps, seed, _ in trials.asked if seed == config.seed]
    assert first == [("None", 20), ("32", 40), ("None", 40), ("32", 80), ("None", 80), ("32", 160)]


def test_a_training_that_fails_ends_its_recipe_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = Planted({"as it is": 0.1, "random": 0.2})
    config = load(tmp_path, RUN)
    outcome = Halving(config, [{}, {"schedule": "reverse"}, {"schedule": "random"}], [40], trials, tuples=640).outcome()
    assert outcome.chosen == 2 and outcome.rungs[0].failed == {1: "the loss is no number"}
    assert "failed: the loss is no number" in capsys.readouterr().err
    with pytest.raises(RunError):
        halved(tmp_path, Planted({"reverse": 0.1, "random": 0.2}), 40)
