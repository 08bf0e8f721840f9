"""How fast is a step of training beside sentence-transformers' own trainer, and is it the same step?

    OMP_NUM_THREADS=1 python -m benchmarks.training_speed [--again CELL ...] [--table] [--settings]

MedQuAD (long answers), all-MiniLM-L6-v2 with mean pooling, 256 tokens, batches of 64 rows of 1 + 1 + 4 texts: a query,
its positive, and a negative of each grade, mined by BM25. `stock` is SentenceTransformerTrainer with
CachedMultipleNegativesRankingLoss, at the mini-batch size that is best for it (measured first, on a quarter of a
batch), and without dropout, as `multigrain` trains by default; `stock as shipped` keeps the base's dropout.
`multigrain` is `train_model`. All get the same rows in the same order, the same learning rate, warm-up and clipping.

Each arm is a process of its own, so that the peak of its memory is its own, and all arms take turns, step by step: the
ratio of a step is of the seconds of processor time within a round. A step is all that happens from the begin of one to
the begin of the next: encoding, loss, optimizer, log, and tokenizing the next batch. The first is not counted.

`multigrain` leaves out false in-batch negatives, which stock does not; `multigrain, none left out` is there to show
that its loss is otherwise the same.

Cells: mini-batch (which size is best for stock), rows (how many texts and tokens are distinct), pair (one thread),
threads (two threads, wall time). Writes benchmarks/results/training_speed.json after each, and skips those that it
finds there. --settings measures which micro-batches and how much kept activation are best for multigrain.
"""

import gzip
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.losses.gradcache import _minibatch_ranges
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from transformers import PrinterCallback, TrainerCallback

from benchmarks.environment import environment, parser_of, require_commit
from multigrain.config import ModelSection, TrainingSection
from multigrain.files import write_json
from multigrain.model.build import build_model
from multigrain.progress import set_mode
from multigrain.records import GradedTuple, Negative, folded
from multigrain.retrieval.bm25 import nearest_by_words
from multigrain.training import gathered, train
from multigrain.training.batches import RowsOfPhase, column_names
from multigrain.training.curriculum import Curriculum, plan
from multigrain.training.schedules import phases_of
from multigrain.training.trainer import CurriculumTrainer
from multigrain.training.unique_texts import Features, distinct

RESULTS = Path(__file__).with_name("results") / "training_speed.json"
DATA = Path(os.environ.get("MULTIGRAIN_DATA", Path(__file__).parents[2] / "shared" / "data")) / "medquad"
PAIRS = 4000
"""Drawn from the training pairs."""
BANDS = {1: (60, 200), 2: (20, 60), 3: (5, 20), 4: (0, 5)}
"""A negative of each grade is drawn from these ranks, those of the query's own positives not counted."""
BATCH, MAX_TOKENS, PLANNED = 64, 256, 10
SEED = 7
SIZES = (1, 2, 4, 8, 16, 32)
SETTINGS = [
    *(("fp32", tokens, 2.0) for tokens in (512, 1024, 2048, 4096, 8192)),
    *(("fp32", 1024, gb) for gb in (0.0, 1.0, 2.5, 3.0)),
    *(("bf16", 1024, gb) for gb in (0.0, 2.0, 3.0)),
    ("bf16", 512, 2.0),
    ("bf16", 4096, 2.0),
]
SWEPT_ROWS, SWEPT_COLUMNS = 32, 3


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    is_stock: bool = False
    dropout: bool = False
    precision: str = "fp32"
    mini_batch_size: int = 1
    """Of stock."""
    micro_batch_tokens: int | None = None
    activation_gb: float | None = None
    """Of multigrain; by default its own defaults."""
    leaves_out: bool = True
    """Whether false in-batch negatives are."""

    @property
    def section(self) -> TrainingSection:
        """The settings of a training like this."""
        given = {
            name: value
            for name in ("micro_batch_tokens", "activation_gb")
            if (value := getattr(self, name)) is not None
        }
        return TrainingSection(
            schedule="all-at-once",
            steps=PLANNED,
            batch_size=BATCH,
            precision=self.precision,  # type: ignore[arg-type]  # a word that it knows
            dropout=self.dropout,
            checkpoint_every=PLANNED,
            **given,
        )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--again", nargs="+", default=[], help="cells to measure anew")
    parser.add_argument("--cells", nargs="+", default=["rows", "mini-batch", "pair", "threads"])
    parser.add_argument("--table", action="store_true", help="print what is there")
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": {}}
    cells = found["cells"]
    if options.table:
        print(table(cells))
        return
    require_commit(options)
    if not DATA.exists():
        sys.exit(f"training_speed: no MedQuAD in {DATA}; give its parent folder as MULTIGRAIN_DATA")
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "rows": rows_cell,
        "mini-batch": mini_batch_cell,
        "pair": lambda: paired(arms(cells), options.rounds, threads=1),
        "threads": lambda: paired(arms(cells, for_threads=True), 2, threads=2),
        "settings": settings_cell,
    }
    for name in [*options.cells, *(["settings"] if options.settings else [])]:
        if name in options.again or name not in cells:
            begun = time.monotonic()
            cells[name] = {**work[name](), "minutes": round((time.monotonic() - begun) / 60, 1)}
            found["environment"] = environment("torch", "transformers", "sentence-transformers", all=SEED)
            write_json(RESULTS, found)
    print(table(cells))


def arms(cells: dict[str, Any], *, for_threads: bool = False) -> dict[str, Arm]:
    """The arms by name, stock's at their best mini-batch size."""
    best = cells["mini-batch"]["best"]
    stock = Arm(is_stock=True, mini_batch_size=best["stock"])
    some = {"stock": stock, "multigrain": Arm(), "multigrain bf16": Arm(precision="bf16")}
    if for_threads:
        return some
    return {
        **some,
        "stock as shipped": replace(stock, dropout=True, mini_batch_size=best["stock as shipped"]),
        "stock bf16": replace(stock, precision="bf16"),
        "multigrain, none left out": Arm(leaves_out=False),
    }


# The data


def read(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def tuples() -> list[GradedTuple]:
    """Some training pairs, each with a negative of every grade."""
    pairs, corpus = read("train.jsonl.gz"), [row["text"] for row in read("corpus.jsonl.gz")]
    positives: dict[str, set[str]] = {}
    for pair in pairs:
        positives.setdefault(folded(pair["query"]), set()).add(folded(pair["positive"]))
    draw = random.Random(SEED)
    drawn = draw.sample(pairs, PAIRS)
    nearest = nearest_by_words([pair["query"] for pair in drawn], enumerate(corpus), 210, "english")
    graded = []
    for number, (pair, row) in enumerate(zip(drawn, nearest, strict=True)):
        own = positives[folded(pair["query"])]
        others = [corpus[place] for place in row if place >= 0 and folded(corpus[place]) not in own]
        negatives = tuple(
            Negative(draw.choice(others[begin:end]), grade, 0.0, "mined")
            for grade, (begin, end) in BANDS.items()
            if others[begin:end]
        )
        graded.append(GradedTuple(str(number), pair["query"], pair["positive"], negatives, task=pair["qtype"]))
    return graded


def planned(*, by_task: bool = True) -> Curriculum:
    return plan(tuples(), phases_of(Arm().section), BATCH, SEED, by_task=by_task)


def columns_of(curriculum: Curriculum, numbers: Iterable[int]) -> dict[str, list[str]]:
    """The texts of these rows, by column."""
    rows = [curriculum.row(*divmod(number, BATCH), 0) for number in numbers]
    texts = [[row.query, *(document.text for document in row.documents)] for row in rows]
    return dict(zip(column_names(curriculum.phases[0]), map(list, zip(*texts, strict=True)), strict=True))


def tokenized(model: SentenceTransformer, columns: dict[str, list[str]]) -> list[Features]:
    return [model.preprocess(texts) for texts in columns.values()]


def load(arm: Arm) -> SentenceTransformer:
    torch.manual_seed(SEED)
    model = build_model(ModelSection(pooling="mean", max_tokens=MAX_TOKENS))
    if arm.is_stock:
        model = SentenceTransformer(modules=list(model))
        model.max_seq_length = MAX_TOKENS
        if not arm.dropout:
            train.without_dropout(model)
    return model


def rows_cell() -> dict[str, Any]:
    """What the batches are like; nothing is timed."""
    model = load(Arm())
    result: dict[str, Any] = {}
    for by_task in (True, False):
        curriculum = planned(by_task=by_task)
        steps = [batch_of(model, curriculum, step) for step in range(PLANNED)]
        result["by task" if by_task else "mixed"] = {name: [step[name] for step in steps] for name in steps[0]}
    return result


def batch_of(model: SentenceTransformer, curriculum: Curriculum, step: int) -> dict[str, float]:
    """Texts, tokens and padding of a batch."""
    columns = tokenized(model, columns_of(curriculum, range(step * BATCH, (step + 1) * BATCH)))
    texts = distinct(columns)
    identities = texts.identities[texts.places]
    real = sum(int(column["attention_mask"].sum()) for column in columns)
    micro = Arm().section.micro_batch_tokens or train.MICRO_BATCH_TOKENS["cpu"]
    everything = gathered.GatheredBatch(
        torch.zeros(*texts.places.shape, 1), identities, torch.zeros(BATCH, len(columns) - 1, 3), 0, 1.0
    )
    own = torch.eye(BATCH, dtype=torch.bool).repeat(1, len(columns) - 1)
    own[:, BATCH:] = False
    false = everything._false(torch.arange(BATCH)) & ~own
    return {
        "texts": texts.places.numel(),
        "distinct texts": round(len(texts.identities) / texts.places.numel(), 3),
        "tokens": real,
        "distinct tokens": round(texts.tokens / real, 3),
        "false in-batch negatives": int(false.sum()),
        "padding, multigrain": padding(texts.groups, micro, is_tokens=True),
        **{f"padding, stock at {size}": padding(columns, size, is_tokens=False) for size in SIZES},
    }


def padding(columns: list[Features], size: int, *, is_tokens: bool) -> float:
    """The share of padding among what is encoded."""
    real = encoded = 0
    for column in columns:
        lengths = column["attention_mask"].sum(dim=1)
        ranges = _minibatch_ranges(column, size, size if is_tokens else None)
        real += int(lengths.sum())
        encoded += sum((end - begin) * int(lengths[begin:end].max()) for begin, end in ranges)
    return round(1 - real / encoded, 3)


# Which mini-batch size is best for stock


def mini_batch_cell() -> dict[str, Any]:
    """Seconds of processor time for a quarter of a batch, forward and backward, without the optimizer."""
    result: dict[str, Any] = {"seconds": {}, "best": {}}
    for name, dropout in (("stock", False), ("stock as shipped", True)):
        with get_context("spawn").Pool(1, partial(torch.set_num_threads, 1)) as pool:
            seconds = pool.apply(swept, (dropout,))
        result["seconds"][name] = seconds
        result["best"][name] = min(SIZES, key=lambda size: seconds[str(size)])
    return result


def swept(dropout: bool) -> dict[str, float]:
    model = load(Arm(is_stock=True, dropout=dropout)).train()
    columns = tokenized(model, columns_of(planned(), range(SWEPT_ROWS)))[:SWEPT_COLUMNS]
    seconds = {}
    for size in (SIZES[2], *SIZES):  # the first warms up, and is overwritten
        step = CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=size)
        model.zero_grad()
        begun = time.process_time()
        step([dict(column) for column in columns], torch.zeros(0)).backward()
        seconds[str(size)] = round(time.process_time() - begun, 2)
        print(dropout, size, seconds[str(size)], flush=True)
    return seconds


# The arms, side by side


def paired(ways: dict[str, Arm], rounds: int, threads: int) -> dict[str, Any]:
    """Every arm makes a step, then every arm the next; one more round than is counted."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    children = []
    for name, arm in ways.items():
        pipes[name], theirs = context.Pipe()
        children.append(context.Process(target=run_arm, args=(theirs, arm, threads)))
        children[-1].start()
        theirs.close()
        pipes[name].recv()  # one after the other, so that none waits for memory
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
    """Waits for its turn before each step, and tells what the last took."""

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
        """Note what the host's own part of the step took."""
        self._within = {f"{clock} within": seconds for clock, seconds in self._since().items()}


def peak_mb() -> float:
    """Of resident memory, of this process alone (what getrusage says holds the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kilobytes * 1024 / 1e6, 1)


def taking_turns(trainer: Any, turns: Turns) -> Any:
    """The trainer's class, with turns."""

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
    """One arm, in a process of its own."""
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
    """No document is a false negative."""
    columns, size = everything.identities.shape
    return torch.zeros(len(mine), (columns - 1) * size, dtype=torch.bool)


def run_stock(arm: Arm, folder: Path, turns: Turns) -> None:
    """As the host's documentation has it; what `train_model` sets, other than the host's defaults, is set here too."""
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
    """Which micro-batches, and how much kept activation, are best: the first step of each, alone."""
    result = {}
    for precision, tokens, gb in SETTINGS:
        arm = Arm(precision=precision, micro_batch_tokens=tokens, activation_gb=gb)
        result[f"{precision}, {tokens} tokens, {gb:g} GB"] = paired({"multigrain": arm}, 0, 1)["arms"]["multigrain"]
    return result


# What is shown


def table(cells: dict[str, Any]) -> str:
    lines = []
    if "pair" in cells:
        two = cells.get("threads", {"arms": {}})["arms"]
        lines += [
            "| arm | CPU-s per step | examples / CPU-s | speed | speed, 2 threads | peak MB | loss apart by |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, arm in cells["pair"]["arms"].items():
            seconds = f"{statistics.median(arm['seconds']):.1f}"
            row = [name, seconds, f"{arm['examples_per_second']:.2f}", f"{arm['speedup']:.2f}"]
            row += [f"{two[name]['speedup']:.2f}" if name in two else ""]
            row += [f"{arm['peak_mb']:.0f}", f"{arm['largest_difference_of_loss']:.1g}"]
            lines.append(f"| {' | '.join(row)} |")
    if "settings" in cells:
        lines += ["", "| setting | CPU-s | peak MB |", "| --- | --- | --- |"]
        lines += [
            f"| {name} | {arm['seconds'][0]:.1f} | {arm['peak_mb']:.0f} |"
            for name, arm in cells["settings"].items()
            if isinstance(arm, dict)
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
