"""Adapt a decoder to attention in both directions by masked next token prediction (MNTP).

LLM2Vec (arXiv 2404.05961) puts this before the contrastive training, because a decoder whose tokens suddenly see later
ones is worse than before: its weights never learned to use them. Some tokens are masked; a masked token x_i is
predicted from the state of the token before it, as in the pretraining of a decoder:

    loss = - mean over masked i of log softmax(W h_{i-1})[x_i]

with h the final states and W the language-model head, which stays fixed. An adapter (LoRA) in all linear layers learns,
and is merged into the weights afterwards.

Weights in bfloat16 stay so while the adapter learns in float32. Those in float16 are converted to float32 meanwhile,
because their gradients could vanish without loss scaling.

Letters: B windows in a batch, n tokens, K masked tokens in the batch, V tokens in the vocabulary.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from multigrain.config import BLANK, AdaptSection, LoraSection
from multigrain.errors import ConfigError, RunError
from multigrain.model.adapter import add_adapter, merge_in_place
from multigrain.model.language_model import LanguageModel
from multigrain.model.precision import matrix_products, resolve
from multigrain.model.refusals import mask_fault
from multigrain.terminal import Meter, meter
from multigrain.training.checkpoints import cut_log, last_checkpoint
from multigrain.training.interruption import Stopping
from multigrain.training.masked_tokens import IGNORED, MaskedBatches, Window, batches_of, until, windows_of
from multigrain.training.train import memory_explained
from multigrain.training.trainer import SafeCheckpoints

WARMUP_SHARE = 0.1
HELD_OUT_SHARE, MOST_HELD_OUT = 0.02, 20_000
"""Share of the tokens that are held out to measure the loss, and the maximum number."""
EVALUATIONS = 10
"""Number of times that the held-out loss is measured, besides the one before the first step."""
ADAPTER = "adapter.safetensors"


class Adaptation(NamedTuple):
    """The result of an adaptation."""

    steps: int
    """Number of steps."""
    tokens: int
    """Number of tokens read."""
    before: float
    """Held-out loss before the first step, in nats."""
    after: float
    """Held-out loss of the model as it is saved, with the adapter merged and rounded, in nats."""


def adapt(model: LanguageModel, texts: Iterable[str], section: AdaptSection, folder: Path, seed: int) -> Adaptation:
    """Adapt a decoder in place. An interrupted adaptation resumes exactly, from its last complete checkpoint.

    Args:
        model: the decoder, whose tokens already attend in both directions.
        texts: texts in random order, as many as there are; only as many as needed are read.
        section: the settings.
        folder: output folder; receives log.jsonl and checkpoints/.
        seed: seed of the windows' order, the masks and the adapter.

    Raises:
        ConfigError: the mask token is not a single token.
        RunError: the texts have too few tokens, the loss is not finite, or memory ran out.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP arrived; the interrupted step was saved as a checkpoint.
    """
    train, held_out = _batches(model.embedding.tokenizer, texts, section, seed)
    in_float16 = [weight for weight in model.causal.parameters() if weight.dtype == torch.float16]
    _convert(in_float16, torch.float32)  # small gradients are 0 in float16
    torch.manual_seed(seed)  # for the initial weights of the adapter
    add_adapter(model.causal.base_model, LoraSection(rank=section.rank))
    for parameter in model.causal.get_output_embeddings().parameters():
        parameter.requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    with memory_explained("Lower adapt.batch_tokens, and run the same command again."):
        trainer = _trainer(MaskedNextToken(model.causal, section), train, held_out, section, folder, seed)
        with meter("adapting", len(train)) as progress:
            trainer.add_callback(_Log(log, progress))
            checkpoint = last_checkpoint(folder / "checkpoints", trainer.step_size)
            trainer.args.eval_on_start = checkpoint is None
            with trainer.stopping.postponed():
                trainer.train(resume_from_checkpoint=checkpoint)
        merge_in_place(model.causal.base_model)
        _convert(in_float16, torch.float16)
        trainer.remove_callback(_Log)
        after = trainer.evaluate()["eval_loss"]  # not that of the log, from before the sums were rounded
    losses = (entry["held_out_loss"] for entry in map(json.loads, log.open(encoding="utf-8")) if "step" in entry)
    return Adaptation(len(train), train.tokens, next(losses), after)


def _convert(weights: Iterable[nn.Parameter], precision: torch.dtype) -> None:
    """Convert weights, and no buffers: a model keeps those of its positions in float32, whatever its precision."""
    for weight in weights:
        weight.data = weight.data.to(precision)


def _batches(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], section: AdaptSection, seed: int
) -> tuple[MaskedBatches, MaskedBatches]:
    """Return the batches to train on, and those of the held-out windows, which come first."""
    windows = windows_of(texts, tokenizer, section.max_tokens)
    held_out = until(windows, min(MOST_HELD_OUT, max(1, int(HELD_OUT_SHARE * section.tokens))))
    train = until(windows, section.tokens)
    if not train:
        fault = "adapt: the texts are too few or too short to adapt to"
        raise RunError(f"{fault}. Give more documents: corpus in [data] or in [[data.sources]].")
    mask = _mask(tokenizer, section)
    special = {*tokenizer.all_special_ids, mask}

    def masked(found: list[Window], tokens: int) -> MaskedBatches:
        batches = batches_of(found, tokens, section.batch_tokens, seed)
        return MaskedBatches(batches, masked=section.masked, mask=mask, special=special, seed=seed)

    return masked(train, section.tokens), masked(held_out, sum(map(len, held_out)))


def _mask(tokenizer: PreTrainedTokenizerBase, section: AdaptSection) -> int:
    """Return the id of the token that replaces masked ones."""
    if section.mask_token is None and tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    text = section.mask_token or BLANK
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if fault := mask_fault(text, len(ids)):
        raise ConfigError("adapt.mask_token", [fault])
    return int(ids[0])


class MaskedNextToken(nn.Module):
    """A decoder with the loss of masked next token prediction.

    Args:
        causal: the decoder with its head.
        section: the settings.
    """

    def __init__(self, causal: PreTrainedModel, section: AdaptSection) -> None:
        super().__init__()
        self.causal = causal
        self._precision = resolve(section.precision, "adapt.precision")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the mean loss over the masked tokens, in nats.

        Args:
            input_ids: (B, n), with masks.
            attention_mask: (B, n), 0 for padding.
            labels: (B, n), the ids of the masked tokens, `IGNORED` elsewhere.
        """
        is_masked = labels[:, 1:] != IGNORED
        if not is_masked.any():  # a batch of very short windows
            return {"loss": torch.stack([0.0 * weight.sum() for weight in _trained(self).values()]).sum()}
        with _only_before(is_masked, self.causal), matrix_products(input_ids.device, self._precision):
            logits = self.causal(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return {"loss": cross_entropy(logits.squeeze(0).float(), labels[:, 1:][is_masked])}


@contextmanager
def _only_before(is_masked: Tensor, causal: PreTrainedModel) -> Iterator[None]:
    """Within the block, the head computes the logits (1, K, V) of only the states before masked tokens.

    The logits of all tokens would take a fifth of the time and most of the memory.

    Args:
        is_masked: (B, n - 1), for each token but the first.
        causal: the decoder.
    """
    hook = causal.get_output_embeddings().register_forward_pre_hook(
        lambda _, given: (given[0][:, :-1][is_masked][None],)
    )
    try:
        yield
    finally:
        hook.remove()


class _AdaptationTrainer(SafeCheckpoints):
    """The trainer of transformers, with batches in their planned order and checkpoints of the adapter alone.

    Args:
        stopping: decides about additional checkpoints.
        **trainer_arguments: arguments of the trainer.
    """

    step_size = 1  # an item is a batch

    def __init__(self, stopping: Stopping, **trainer_arguments: Any) -> None:
        super().__init__(**trainer_arguments)
        self.stopping = stopping
        self.add_callback(stopping)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.detach() for name, weight in _trained(self.model).items()}, folder / ADAPTER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        (model or self.model).load_state_dict(load_file(Path(resume_from_checkpoint, ADAPTER)), strict=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop if the loss is not finite, and request a checkpoint if one is due.

        Raises:
            RunError: the loss is not finite. transformers logs before it saves, so no checkpoint has the broken step.
        """
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm", "eval_loss")):
            raise RunError(
                f"adapt: the loss is not finite at step {self.state.global_step}. Lower adapt.learning_rate."
            )
        super().log(logs, start_time)
        if "loss" in logs:
            self._save_if_asked(self.stopping.is_interrupted, self.stopping.is_due)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


class _Log(TrainerCallback):  # type: ignore[misc]
    """Write log.jsonl, with a line for each step and each held-out loss, and move the progress bar."""

    def __init__(self, path: Path, progress: Meter) -> None:
        self._path, self._progress = path, progress

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Truncate the log at the checkpoint, so that it has each step once."""
        self._progress.advance(state.global_step)
        cut_log(self._path, state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Append the newest entry to the log."""
        entry = state.log_history.pop()  # every checkpoint would contain all of them
        if "loss" in entry:
            line = {key: entry[key] for key in ("step", "loss", "learning_rate", "grad_norm")}
            self._progress.advance(1, f"loss {entry['loss']:.3f}")
        elif "eval_loss" in entry:
            line = {"step": entry["step"], "held_out_loss": entry["eval_loss"]}
        else:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _trainer(
    model: MaskedNextToken,
    train: MaskedBatches,
    held_out: MaskedBatches,
    section: AdaptSection,
    folder: Path,
    seed: int,
) -> "_AdaptationTrainer":
    every = max(1, len(train) // EVALUATIONS)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,
        per_device_train_batch_size=1,  # an item is a batch
        per_device_eval_batch_size=1,
        learning_rate=section.learning_rate,
        warmup_steps=round(WARMUP_SHARE * len(train)),
        lr_scheduler_type="linear",
        save_strategy="steps",
        save_steps=every,
        eval_strategy="steps",
        eval_steps=every,
        logging_steps=1,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        label_names=["labels"],
        seed=seed,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    trainer = _AdaptationTrainer(
        Stopping(section.checkpoint_minutes),
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=itemgetter(0),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer
