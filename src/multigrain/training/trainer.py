"""The sentence-transformers trainer with a fuller log, safer checkpoints, and a stop when training diverges."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from torch import nn
from transformers import Trainer

from multigrain.errors import RunError
from multigrain.training.batches import name_of
from multigrain.training.callbacks import seconds_used
from multigrain.training.checkpoints import newest_whole, remove_older
from multigrain.training.curriculum import Curriculum
from multigrain.training.interruption import Stopping
from multigrain.training.loss import GradedLoss
from multigrain.training.prompted_texts import preprocessed

EXPLODED = 10.0
"""A loss counts as diverged above this multiple of the loss of guessing among the documents of the batch."""


class SafeCheckpoints(Trainer):
    """A trainer that keeps at most two checkpoints at any time, and saves one when `stopping` asks for it."""

    stopping: Stopping
    step_size: int
    """Number of items in a step, over all processes."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Remove old checkpoints before saving, not after as transformers does: the disk never holds three."""
        if self.args.should_save:
            remove_older(Path(self.args.output_dir), self.step_size)
        super()._save_checkpoint(*args, **kwargs)

    def _save_if_asked(self, interrupted: bool, due: bool) -> None:
        """Save a checkpoint after this step if one is due, or the training was interrupted and ends with it."""
        self.stopping.ends = interrupted
        if interrupted or due:
            self.control.should_save = True  # transformers saves after it has logged


class CurriculumTrainer(SafeCheckpoints, SentenceTransformerTrainer):
    """The sentence-transformers trainer for one curriculum.

    Args:
        curriculum: the planned batches.
        phase_at: maps a step (from 0) to the index of its phase.
        stopping: decides about additional checkpoints.
        **trainer_arguments: arguments of the sentence-transformers trainer, with one loss per phase, by name.
    """

    def __init__(self, curriculum: Curriculum, phase_at: Any, stopping: Stopping, **trainer_arguments: Any) -> None:
        super().__init__(**trainer_arguments)
        self.curriculum, self.phase_at, self.stopping = curriculum, phase_at, stopping
        self.step_size = curriculum.batch_size
        self.add_callback(stopping)
        self._begun, self._used = time.monotonic(), seconds_used(self.args.device)

    def get_data_collator(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a collator that reads each query with its own prompt."""
        collator = super().get_data_collator(model, *args, **kwargs)
        collator.preprocess_fn = partial(preprocessed, model)
        return collator

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Record when the step begins, and run it."""
        self._begun, self._used = time.monotonic(), seconds_used(self.args.device)
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        return loss

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add no callback: it would tokenize a thousand rows, and `multigrain.export.card` writes the card."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Save without a card, in the main process only: several processes would overwrite each other's files."""
        if self.args.should_save:
            self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait until every process has saved its own: the trainer state, written last, marks a complete checkpoint."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the margins of the step and the tokens per second; request a checkpoint if one is due.

        Raises:
            RunError: the loss is not finite, or far too large. transformers logs before it saves, so no checkpoint
                contains the broken step.
        """
        if "loss" not in logs:
            super().log(logs, start_time)
            return
        loss = _graded(self.loss[name_of(self.phase_at(self.state.global_step - 1))])
        self._stop_if_broken(logs, loss)
        used = round(1000 * (seconds_used(self.args.device) - self._used))
        tokens, milliseconds, interrupted, due = self._together(
            loss.measures.tokens, used, self.stopping.is_interrupted, self.stopping.is_due
        )
        logs = {**logs, **{f"margin_grade_{grade}": m for grade, m in loss.measures.margins.items()}}
        logs["tokens_per_second"] = round(tokens / (time.monotonic() - self._begun), 1)
        logs["seconds"] = milliseconds / 1000
        super().log(logs, start_time)
        self._save_if_asked(bool(interrupted), bool(due))

    def _together(self, *counts: int) -> list[int]:
        """Return the sums of the counts over all processes."""
        gathered = self.accelerator.gather(torch.tensor([counts], device=self.accelerator.device))
        sums: list[int] = gathered.sum(dim=0).tolist()
        return sums

    def _stop_if_broken(self, logs: dict[str, float], loss: GradedLoss) -> None:
        found = {name: logs[name] for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name, 0.0))}
        guessing = loss.measures.guessing * loss.measures.terms
        if not found and logs["loss"] > EXPLODED * guessing:
            found = {f"loss (guessing would cost {guessing:.3g})": logs["loss"]}
        if not found:
            return
        step = self.state.global_step
        good = newest_whole(Path(self.args.output_dir), self.curriculum.batch_size)
        values = ", ".join(f"{name.replace('grad_norm', 'the gradient norm')} is {v:g}" for name, v in found.items())
        raise RunError(
            f"training: {values} at step {step}, in phase "
            f'"{self.curriculum.phases[self.phase_at(step - 1)].name}". The batch: '
            f"{', '.join(self.curriculum.ids_at(step - 1))}. "
            + (f"The last good checkpoint is {good}. " if good else "There is no checkpoint yet. ")
            + "Lower training.learning_rate, raise training.temperature, or inspect these tuples."
        )


def _graded(loss: nn.Module) -> GradedLoss:
    """Return the GradedLoss, unwrapped if it is inside a MatryoshkaLoss."""
    inner = loss if isinstance(loss, GradedLoss) else loss.loss
    assert isinstance(inner, GradedLoss)
    return inner
