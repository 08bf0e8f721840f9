"""Trainer callbacks: the training log, and evaluations on held-out tuples during training."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback, TrainerControl, TrainerState

from multigrain.config import PhaseSection
from multigrain.model.prompted_batches import prompted_batches
from multigrain.model.roles import Vectors, prompt_for, query_prompt
from multigrain.records import GradedTuple
from multigrain.terminal import Meter, say
from multigrain.training.batches import PhaseAt
from multigrain.training.checkpoints import cut_log
from multigrain.training.curriculum import Curriculum
from multigrain.training.self_paced import SelfPacedSchedule

REMEMBERED = 32
"""Number of log entries that transformers keeps in memory."""
FIRST = 20
"""Number of first steps whose loss shows whether there is anything to learn."""
IN_A_ROW = 5
"""Number of steps in the median loss, because the loss of a single step is noisy."""
EASY = 0.05
"""Loss below which there is almost nothing to learn: 0.02 was harmful, 0.1 and more were not (docs/results.md, no
labels)."""
SHOWN = ("step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds")


def seconds_used(device: torch.device) -> float:
    """Return a clock of the cost of training: seconds of a GPU, or CPU seconds of this process over all cores.

    Only differences between two readings are meaningful.
    """
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()  # earlier work may still be running
    return time.monotonic()


class TrainingLog(TrainerCallback):  # type: ignore[misc]
    """Write log.jsonl, with a line for each step and each evaluation, and move the progress bar."""

    def __init__(self, curriculum: Curriculum, phase_at: PhaseAt, path: Path, progress: Meter) -> None:
        self._curriculum, self._phase_at, self._path, self._progress = curriculum, phase_at, path, progress
        self._has_warned = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Truncate the log at the checkpoint, so that it contains each step once."""
        self._progress.advance(state.global_step)
        if state.is_world_process_zero:
            cut_log(self._path, state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the newest entry to the log."""
        entry = state.log_history[-1]
        del state.log_history[:-REMEMBERED]  # every checkpoint contains it
        if not self._is_ours(entry):
            return
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as log:
                log.write(self._line(entry))
            if "loss" in entry and self._curriculum.teacher is None:  # distillation may have almost no loss
                self._say_if_easy([known["loss"] for known in state.log_history if "loss" in known], entry["step"])
        if "loss" in entry:
            self._progress.advance(1, f"{self._phase(entry)}, loss {entry['loss']:.3f}")

    def _say_if_easy(self, losses: list[float], step: int) -> None:
        """Warn if the loss is near 0: Adam's steps do not shrink with the gradient, so the weights still move."""
        count = min(IN_A_ROW, self._curriculum.steps)
        if self._has_warned or not count <= step <= FIRST or (loss := median(losses[-count:])) >= EASY:
            return
        self._has_warned = True
        say(
            f"  the loss of steps {step - count + 1} to {step} is {loss:.3f} (median): the model has nothing to learn "
            "here, but each step still moves its weights, which does harm. Use harder negatives, or more grades in a "
            "step"
        )

    @staticmethod
    def _is_ours(entry: dict[str, Any]) -> bool:
        return "loss" in entry or any(name.startswith("held_out_") for name in entry)

    def _line(self, entry: dict[str, Any]) -> str:
        fields = {"step": entry["step"], "phase": self._phase(entry)}
        if "loss" not in entry:
            scores = {name.removeprefix("held_out_"): v for name, v in entry.items() if name.startswith("held_out_")}
            return json.dumps({**fields, "held_out": scores}) + "\n"
        margins = {name.removeprefix("margin_grade_"): v for name, v in entry.items() if name.startswith("margin_")}
        return json.dumps(fields | {key: entry[key] for key in SHOWN if key in entry} | {"margins": margins}) + "\n"

    def _phase(self, entry: dict[str, Any]) -> str:
        return self._curriculum.phases[self._phase_at(max(0, int(entry["step"]) - 1))].name


class EvaluationCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluate the model before training, after each phase, and every few steps of a self-paced training.

    Args:
        phase_at: maps a step (from 0) to the index of its phase.
        schedule: the self-paced schedule, which decides from margins when a phase ends.
        margin_on: returns the margin on a phase.
        evaluate: evaluates the model and logs the result; called before training and after each phase.
    """

    def __init__(
        self,
        phase_at: PhaseAt,
        schedule: SelfPacedSchedule | None,
        margin_on: Callable[[int], float | None],
        evaluate: Callable[[], None] | None,
    ) -> None:
        self._phase_at, self._schedule, self._margin_on, self._evaluate = phase_at, schedule, margin_on, evaluate

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate the model before training."""
        if self._evaluate and state.global_step == 0:
            self._evaluate()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide whether the phase is over."""
        if self._schedule and state.global_step < state.max_steps:
            follows = self._schedule.check(state.global_step, self._margin_on)
            if follows is not None:
                say(f"  the next phase begins after step {state.global_step + 1}")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate once the last step of a phase is logged."""
        step = state.global_step
        is_step = "loss" in state.log_history[-1]
        if self._evaluate and is_step and (step == state.max_steps or self._phase_at(step) != self._phase_at(step - 1)):
            self._evaluate()


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Record the cost of each step, and move the progress bar."""

    def __init__(self, progress: Meter) -> None:
        self._progress = progress
        self._begun = 0.0
        self.seconds: list[float] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the steps done by an earlier process."""
        self._progress.advance(state.global_step)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clock."""
        self._begun = seconds_used(args.device)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(seconds_used(args.device) - self._begun)
        self._progress.advance()


def margin_on(model: SentenceTransformer, tuples: Sequence[GradedTuple], phase: PhaseSection) -> float | None:
    """Return the mean of cos(query, positive) - cos(query, negative) over the tuples' negatives of the phase's grades.

    Return None if there are no such negatives.
    """
    triplets = [
        ((query_prompt(model.prompts, graded.instruction), graded.query), graded.positive, negative.text)
        for graded in tuples
        for negative in graded.negatives
        if negative.grade in phase.grades
    ]
    if not triplets:
        return None
    document = prompt_for("document", model.prompts)
    queries = _encode(model, [query for query, _, _ in triplets])
    positives = _encode(model, [(document, positive) for _, positive, _ in triplets])
    negatives = _encode(model, [(document, negative) for _, _, negative in triplets])
    return float((queries * (positives - negatives)).sum(axis=1).mean())


def _encode(model: SentenceTransformer, texts: Sequence[tuple[str, str]]) -> Vectors:
    """Return a vector of length 1 for each (prompt, text); a query with several negatives is encoded once."""
    was_training = model.training
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    prompts, distinct = zip(*rows, strict=True)
    vectors = np.empty((len(rows), model.get_embedding_dimension() or 0), np.float32)
    for places, members, prompt in prompted_batches(model, distinct, prompts):
        vectors[places] = model.encode(members, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
    model.train(was_training)
    found: Vectors = vectors[[rows[text] for text in texts]]
    return found
