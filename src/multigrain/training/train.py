"""Train the model along the curriculum, with the host's trainer."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, TrainerState

from multigrain.config import TrainingSection
from multigrain.jsonl import write_json
from multigrain.model.build import check_prompts
from multigrain.progress import Meter, meter
from multigrain.training.batches import PlannedBatchSampler, phase_sampler, to_datasets, to_losses, to_prompts
from multigrain.training.curriculum import Curriculum

WARMUP_SHARE = 0.1
KEPT_CHECKPOINTS = 2


def train_model(
    model: SentenceTransformer, curriculum: Curriculum, section: TrainingSection, folder: Path, seed: int
) -> None:
    """Train in place. A training that was interrupted goes on from its last whole checkpoint, exactly.

    Args:
        model: what is trained.
        curriculum: every batch, planned.
        section: the settings.
        folder: receives curriculum.json, log.jsonl and checkpoints/.
        seed: of whatever is drawn in training (dropout).

    Raises:
        ConfigError: a prompt leaves no room for a text within `training.max_tokens`.
    """
    write_json(folder / "curriculum.json", describe(curriculum))
    full_length = model.max_seq_length
    if section.max_tokens and full_length:
        check_prompts(model, section.max_tokens, "training.max_tokens")
        model.max_seq_length = min(section.max_tokens, full_length)
    with meter("training", curriculum.steps) as progress:
        trainer = _trainer(model, curriculum, section, folder, seed)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_Log(curriculum, folder / "log.jsonl", progress))
        trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    model.max_seq_length = full_length


def describe(curriculum: Curriculum) -> list[dict[str, Any]]:
    """The phases without their batches, for the record."""
    return [
        {**{key: value for key, value in asdict(phase).items() if key != "batches"}, "steps": len(phase.batches)}
        for phase in curriculum.phases
    ]


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; broken ones, left by a killed process, are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(checkpoints):
        if _is_whole(path):
            return str(path)
        shutil.rmtree(path)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """The host writes trainer_state.json last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _trainer(
    model: SentenceTransformer, curriculum: Curriculum, section: TrainingSection, folder: Path, seed: int
) -> SentenceTransformerTrainer:
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,
        per_device_train_batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        warmup_steps=round(WARMUP_SHARE * curriculum.steps),
        lr_scheduler_type="linear",
        batch_sampler=PlannedBatchSampler,
        save_strategy="steps",
        save_steps=section.checkpoint_every,
        save_total_limit=KEPT_CHECKPOINTS,
        logging_steps=1,
        seed=seed,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        prompts=to_prompts(curriculum, model),
    )
    arguments.multi_dataset_batch_sampler = phase_sampler(arguments.world_size)
    return SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=to_datasets(curriculum),
        loss=to_losses(curriculum, model, section.mini_batch_size),
    )


class _Log(TrainerCallback):
    """Writes log.jsonl (one line a step) and moves the progress bar."""

    def __init__(self, curriculum: Curriculum, path: Path, progress: Meter) -> None:
        self.curriculum, self.path, self.progress = curriculum, path, progress

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the log from what the checkpoint knows, so that it holds each step once."""
        self.progress.advance(state.global_step)
        lines = [self._line(entry) for entry in state.log_history if "loss" in entry]
        self.path.write_text("".join(lines), encoding="utf-8")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the step that has just ended."""
        entry = state.log_history[-1]
        if "loss" in entry:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(self._line(entry))
            self.progress.advance(1, f"{self._phase(entry)}, loss {entry['loss']:.3f}")

    def _line(self, entry: dict[str, Any]) -> str:
        fields = {
            "step": entry["step"],
            "phase": self._phase(entry),
            "loss": entry["loss"],
            "learning_rate": entry["learning_rate"],
        }
        return json.dumps(fields) + "\n"

    def _phase(self, entry: dict[str, Any]) -> str:
        return self.curriculum.phase_at(int(entry["step"]) - 1).name
