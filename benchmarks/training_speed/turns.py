"""The cells `pair`, `threads` and `settings`: the arms take turns, each in a separate process."""

import json
import os
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from transformers import PrinterCallback, TrainerCallback

from benchmarks.training_speed.data import BATCH, PLANNED, SEED, Arm, columns_of, load, planned
from multigrain.terminal import set_mode
from multigrain.training import gathered, train
from multigrain.training.batches import RowsOfPhase
from multigrain.training.trainer import CurriculumTrainer

SETTINGS = [
    *(("fp32", tokens, 2.0) for tokens in (512, 1024, 2048, 4096, 8192)),
    *(("fp32", 1024, gb) for gb in (0.0, 1.0, 2.5, 3.0)),
    *(("bf16", 1024, gb) for gb in (0.0, 2.0, 3.0)),
    ("bf16", 512, 2.0),
    ("bf16", 4096, 2.0),
]


def paired(ways: dict[str, Arm], rounds: int, threads: int) -> dict[str, Any]:
    """Let every arm make a step, then every arm the next; one more round than is counted."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    children = []
    for name, arm in ways.items():
        pipes[name], theirs = context.Pipe()
        children.append(context.Process(target=run_arm, args=(theirs, arm, threads)))
        children[-1].start()
        theirs.close()
        pipes[name].recv()  # one after the other, so that they do not compete for memory
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            steps[name].append(pipe.recv())
            print(number, name, json.dumps(steps[name][-1]), flush=True)
    for pipe, child in zip(pipes.values(), children, strict=True):
        pipe.send(False)
        child.join()
    clock = "cpu" if threads == 1 else "wall"
    return {
        "threads": threads,
        "clock": clock,
        "arms": {
            name: {**asdict(arm), **summary(steps[name], steps.get("stock"), clock)} for name, arm in ways.items()
        },
    }


def summary(own: list[dict[str, float]], stock: list[dict[str, float]] | None, clock: str) -> dict[str, Any]:
    counted = own[1:] or own
    seconds = [step[clock] for step in counted]
    result: dict[str, Any] = {
        "seconds": seconds,
        "seconds within the step": [step[f"{clock} within"] for step in counted],
        "examples_per_second": round(BATCH / statistics.median(seconds), 3),
        "peak_mb": max(step["peak_mb"] for step in own),
        "losses": [step["loss"] for step in own],
        "gradient_norms": [step["gradient_norm"] for step in own],
    }
    if stock:
        ratios = [theirs[clock] / step[clock] for theirs, step in zip(stock[1:], counted, strict=True)]
        result["speedup"] = round(statistics.median(ratios), 3)
        result["speedups"] = [round(ratio, 3) for ratio in ratios]
        result["largest_difference_of_loss"] = max(
            abs(theirs["loss"] - step["loss"]) for theirs, step in zip(stock, own, strict=True)
        )
    return result


class Turns(TrainerCallback):  # type: ignore[misc]
    """A callback that waits for its turn before each step, and reports the cost of the last."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._begun: dict[str, float] = {}
        self._within: dict[str, float] = {}
        self.loss = self.gradient_norm = float("nan")

    @staticmethod
    def _clocks() -> dict[str, float]:
        return {"cpu": time.process_time(), "wall": time.perf_counter()}

    def _since(self) -> dict[str, float]:
        return {clock: round(now - self._begun[clock], 3) for clock, now in self._clocks().items()}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Report, then wait."""
        if not self._begun:
            self._pipe.send("ready")
        else:
            report = {**self._since(), **self._within, "loss": self.loss, "gradient_norm": self.gradient_norm}
            self._pipe.send({**report, "peak_mb": peak_mb()})
        if not self._pipe.recv():
            raise SystemExit
        self._begun = self._clocks()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the cost of the trainer's own part of the step."""
        self._within = {f"{clock} within": seconds for clock, seconds in self._since().items()}


def peak_mb() -> float:
    """Return the peak of resident memory of this process alone (getrusage includes the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kilobytes * 1024 / 1e6, 1)


def taking_turns(trainer: Any, turns: Turns) -> Any:
    """Return the trainer's class, with turns."""

    class Trainer(trainer):  # type: ignore[misc]
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            value: torch.Tensor = super().training_step(*arguments, **named)
            turns.loss = float(value)
            gradients = [weights.grad.norm() for weights in self.model.parameters() if weights.grad is not None]
            turns.gradient_norm = float(torch.stack(gradients).norm())
            return value

        def train(self, *arguments: Any, **named: Any) -> Any:
            self.remove_callback(PrinterCallback)
            self.add_callback(turns)
            return super().train(*arguments, **named)

    return Trainer


def run_arm(pipe: Connection, arm: Arm, threads: int) -> None:
    """Run one arm, in a separate process."""
    torch.set_num_threads(threads)
    set_mode("none")
    turns = Turns(pipe)
    with TemporaryDirectory() as folder:
        if arm.is_stock:
            run_stock(arm, Path(folder), turns)
            return
        none_left_out = patch.object(gathered.GatheredBatch, "_false", nothing)
        with (
            nullcontext() if arm.leaves_out else none_left_out,
            patch.object(train, "CurriculumTrainer", taking_turns(CurriculumTrainer, turns)),
        ):
            train.train_model(load(arm), planned(), arm.section, Path(folder), SEED)


def nothing(everything: Any, mine: torch.Tensor) -> torch.Tensor:
    """Return an empty mask: no document is a false negative."""
    columns, size = everything.identities.shape
    return torch.zeros(len(mine), (columns - 1) * size, dtype=torch.bool)


def run_stock(arm: Arm, folder: Path, turns: Turns) -> None:
    """Train as the documentation of sentence-transformers recommends.

    Sets all settings that differ between `train_model` and the defaults of sentence-transformers.
    """
    section = arm.section
    model = load(arm)
    trainer = taking_turns(SentenceTransformerTrainer, turns)(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=section.learning_rate,
            warmup_steps=round(train.WARMUP_SHARE * PLANNED),
            batch_sampler=RowsOfPhase,
            save_strategy="no",
            seed=SEED,
            bf16=arm.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict(columns_of(planned(), range(PLANNED * BATCH))),
        loss=CachedMultipleNegativesRankingLoss(
            model, scale=1 / section.temperature, mini_batch_size=arm.mini_batch_size
        ),
    )
    trainer.train()


def settings_cell() -> dict[str, Any]:
    """Measure the best micro-batches and the best amount of kept activations: the first step of each, alone."""
    result = {}
    for precision, tokens, gb in SETTINGS:
        arm = Arm(precision=precision, micro_batch_tokens=tokens, activation_gb=gb)
        result[f"{precision}, {tokens} tokens, {gb:g} GB"] = paired({"multigrain": arm}, 0, 1)["arms"]["multigrain"]
    return result
