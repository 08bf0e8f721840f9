"""Train the model along the curriculum with the sentence-transformers trainer."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from torch import nn
from transformers import PrinterCallback, ProgressCallback
from transformers.integrations import TensorBoardCallback

from multigrain.config import TrainingSection
from multigrain.errors import RunError, first_line
from multigrain.files import write_json
from multigrain.model.build import check_prompts
from multigrain.model.precision import uses_bf16
from multigrain.model.refusals import vectors_too_short
from multigrain.records import GradedTuple
from multigrain.terminal import meter, say
from multigrain.training.batches import PhaseAt, RowsOfPhase, name_of, step_sampler, to_datasets, to_prompts, token_rows
from multigrain.training.callbacks import EvaluationCallback, TrainingLog, margin_on
from multigrain.training.checkpoints import last_checkpoint
from multigrain.training.curriculum import Curriculum
from multigrain.training.distributed import are_on_cpu, from_main, is_main, joined, share_of
from multigrain.training.frozen_cache import FrozenStates
from multigrain.training.frozen_layers import frozen_depth
from multigrain.training.interruption import Stopping
from multigrain.training.loss import Encoding, GradedLoss
from multigrain.training.objectives import Distillation
from multigrain.training.self_paced import SelfPacedSchedule
from multigrain.training.trainer import CurriculumTrainer

WARMUP_SHARE = 0.1
GB = 10**9
ON_GPU = 4096
MICRO_BATCH_TOKENS = {"cpu": 1024}
"""On a CPU, small matrix products are as fast as large ones, and small micro-batches hold less padding. On an H200,
4,096 and 16,384 tokens are equally fast for a decoder of 30 layers, but 16,384 takes twice the memory (docs/log.md)."""
LESS_MEMORY = (
    "Lower training.activation_gb (0 encodes every text twice and keeps almost no activations), then "
    "training.micro_batch_tokens, and run the same command again: it resumes from the last checkpoint. If that is not "
    "enough, lower training.max_tokens; this restarts the training."
)


@dataclass(frozen=True)
class HeldOut:
    """The held-out tuples and the evaluation that runs during training.

    Attributes:
        tuples: the tuples whose margins decide when a self-paced phase ends.
        evaluate: the function that evaluates the model before training and after each phase.
    """

    tuples: Sequence[GradedTuple] = ()
    evaluate: Callable[[SentenceTransformer], dict[str, float]] | None = None


def train_model(
    model: SentenceTransformer,
    curriculum: Curriculum,
    section: TrainingSection,
    folder: Path,
    seed: int,
    held_out: HeldOut = HeldOut(),
) -> None:
    """Train the model in place. An interrupted training resumes exactly, from its last complete checkpoint.

    Args:
        model: the model to train.
        curriculum: the plan of every batch.
        section: the training settings.
        folder: the output folder; receives curriculum.json, log.jsonl and checkpoints/.
        seed: the seed of random draws in training (dropout).
        held_out: the held-out tuples and the evaluation during training.

    Raises:
        ConfigError: a prompt leaves no room for a text within `training.max_tokens`, a batch cannot be split evenly
            among the processes, or the vectors are shorter than a length in `training.matryoshka`.
        RunError: the loss is not finite or far too large, or memory ran out.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP arrived; the interrupted step was saved as a checkpoint.
    """
    joined()
    writes = is_main()
    full_length = model.max_seq_length
    if section.max_tokens and full_length:
        check_prompts(model, section.max_tokens, "training.max_tokens")
        model.max_seq_length = min(section.max_tokens, full_length)
    if not section.dropout:
        without_dropout(model)
    schedule = (
        SelfPacedSchedule(curriculum, section.pace_every, folder / "pace.json", writes=writes)
        if section.is_self_paced
        else None
    )
    phase_at = schedule.phase_at if schedule else curriculum.phase_at
    with memory_explained(LESS_MEMORY):
        trainer = _trainer(model, curriculum, section, folder=folder, seed=seed, phase_at=phase_at)
        with meter("training", curriculum.steps) as progress:
            trainer.add_callback(TrainingLog(curriculum, phase_at, folder / "log.jsonl", progress))
            trainer.add_callback(_evaluation_callback(trainer, schedule, held_out))
            processes = trainer.args.world_size
            checkpoint = from_main(lambda: last_checkpoint(folder / "checkpoints", curriculum.batch_size, processes))
            with trainer.stopping.postponed():
                trainer.train(resume_from_checkpoint=checkpoint)
    model.max_seq_length = full_length
    if writes:
        write_json(folder / "curriculum.json", _phases_as_trained(curriculum, phase_at))


def _phases_as_trained(curriculum: Curriculum, phase_at: PhaseAt) -> list[dict[str, Any]]:
    steps = Counter(phase_at(step) for step in range(curriculum.steps))
    return [{**phase.model_dump(), "steps": steps[index]} for index, phase in enumerate(curriculum.phases)]


def _trainer(
    model: SentenceTransformer,
    curriculum: Curriculum,
    section: TrainingSection,
    *,
    folder: Path,
    seed: int,
    phase_at: PhaseAt,
) -> CurriculumTrainer:
    arguments = _arguments(section, curriculum, folder, seed)
    arguments.prompts = to_prompts(curriculum, model)
    arguments.multi_dataset_batch_sampler = step_sampler(curriculum.batch_size, arguments.world_size, phase_at)
    trainer = CurriculumTrainer(
        curriculum,
        phase_at,
        Stopping(section.checkpoint_minutes),
        model=model,
        args=arguments,
        train_dataset=to_datasets(curriculum, model.prompts),
        loss=_losses(model, curriculum, section, _encoding(model, curriculum, section, folder)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if "tensorboard" in section.report_to and is_main():
        from torch.utils.tensorboard import SummaryWriter  # an optional package

        writer: Any = SummaryWriter(str(folder / "tensorboard"))  # the default place is among the checkpoints
        trainer.add_callback(TensorBoardCallback(writer))
    return trainer


def without_dropout(model: nn.Module) -> None:
    """Switch off the dropout of the base. An adapter keeps its dropout, which has its own setting."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute, value in vars(module).items():  # many attention layers store only the rate
            if "drop" in attribute and isinstance(value, float):
                setattr(module, attribute, 0.0)


def _arguments(
    section: TrainingSection, curriculum: Curriculum, folder: Path, seed: int
) -> SentenceTransformerTrainingArguments:
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,
        learning_rate=section.learning_rate,
        warmup_steps=round(WARMUP_SHARE * curriculum.steps),
        lr_scheduler_type="linear",
        batch_sampler=RowsOfPhase,
        save_strategy="steps",
        save_steps=section.checkpoint_every,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=seed,
        report_to=[name for name in section.report_to if name != "tensorboard"],
        disable_tqdm=True,
        dataloader_drop_last=True,  # no batch is incomplete, but transformers requires it
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=are_on_cpu(),
    )
    if arguments.n_gpu > 1:  # else transformers would split each batch among them
        say(
            f"  using one of {arguments.n_gpu} GPUs; to use all of them: "
            f"torchrun --nproc-per-node {arguments.n_gpu} -m multigrain train RUN.toml"
        )
        arguments._n_gpu = 1
    arguments.per_device_train_batch_size = share_of(curriculum.batch_size)
    return arguments


def _encoding(model: SentenceTransformer, curriculum: Curriculum, section: TrainingSection, folder: Path) -> Encoding:
    bf16 = uses_bf16(section.precision, model.device)
    frozen = _frozen(model, curriculum, section, folder / "frozen")
    tokens = section.micro_batch_tokens or MICRO_BATCH_TOKENS.get(model.device.type, ON_GPU)
    return Encoding(tokens, int(section.activation_gb * GB), bf16, frozen)


def _frozen(
    model: SentenceTransformer, curriculum: Curriculum, section: TrainingSection, folder: Path
) -> FrozenStates | None:
    """Return the cached output of the frozen layers, or None if there are none or the cache would be too large.

    The cache is always in single precision: some states of a decoder are too large for half precision.
    """
    if not section.frozen_cache_gb or not frozen_depth(model):
        return None
    if not FrozenStates.fits(model, token_rows(model, curriculum), int(section.frozen_cache_gb * GB)):
        say(
            f"  the output of the frozen layers would exceed training.frozen_cache_gb = "
            f"{section.frozen_cache_gb:g}, so every step computes it again"
        )
        return None
    from_main(lambda: FrozenStates.compute(model, token_rows(model, curriculum), folder))
    return FrozenStates(model, folder)


def _losses(
    model: SentenceTransformer, curriculum: Curriculum, section: TrainingSection, encoding: Encoding
) -> dict[str, nn.Module]:
    """Return one loss for each phase, at its temperature.

    If the model truncates its vectors, the truncated ones are trained too, because users see only those.
    """
    cut = model.truncate_dim
    with model.truncate_embeddings(None):  # the loss needs full-length vectors
        size = model.get_embedding_dimension() or 0
        if too_long := [dimension for dimension in section.matryoshka if dimension > size]:
            raise vectors_too_short(too_long, size)
        dimensions = sorted({size, *section.matryoshka, min(size, cut or size)}, reverse=True)
        losses: dict[str, nn.Module] = {}
        for index, phase in enumerate(curriculum.phases):
            loss = GradedLoss(
                model,
                phase.temperature,
                section.loss,
                contrast=section,
                distillation=_distillation(section, curriculum),
                encoding=encoding,
            )
            losses[name_of(index)] = MatryoshkaLoss(model, loss, dimensions) if len(dimensions) > 1 else loss
    return losses


def _distillation(section: TrainingSection, curriculum: Curriculum) -> Distillation:
    """Return the settings of the objective `distill`, with the scale of this training's scores."""
    teacher, scale = section.teacher, curriculum.teacher
    if teacher is None or scale is None:
        return Distillation()
    return Distillation(
        teacher_temperature=teacher.temperature,
        infonce_weight=teacher.infonce_weight,
        infonce_temperature=teacher.infonce_temperature,
        false_negative_above=teacher.false_negative_above,
        lowest=scale.lowest,
        highest=scale.highest,
    )


def _evaluation_callback(
    trainer: CurriculumTrainer, schedule: SelfPacedSchedule | None, held_out: HeldOut
) -> EvaluationCallback:
    """Return the callback that evaluates the model in the main process and shares the result with the others."""

    def margin(phase: int) -> float | None:
        return from_main(lambda: margin_on(trainer.model, held_out.tuples, trainer.curriculum.phases[phase]))

    def evaluate() -> None:
        found = from_main(lambda: held_out.evaluate(trainer.model) if held_out.evaluate else {})
        trainer.model.train()
        trainer.log({f"held_out_{name}": value for name, value in found.items()})

    return EvaluationCallback(trainer.phase_at, schedule, margin, evaluate if held_out.evaluate else None)


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error in the block into one that says how to use less memory.

    Raises:
        RunError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        signs = ("out of memory", "can't allocate memory", "alloc_failed")
        if not isinstance(error, MemoryError) and not any(sign in text for sign in signs):
            raise
        raise RunError(f"training: out of memory ({first_line(error)}). {advice}") from error
