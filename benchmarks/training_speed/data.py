"""Define the ways to train, and the rows and the model that all of them get."""

import gzip
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.shared.data_sets import DATA_SETS
from multigrain.config import ModelSection, TrainingSection
from multigrain.model.build import build_model
from multigrain.records import GradedTuple, Negative, folded
from multigrain.retrieval.bm25_index import Bm25Index
from multigrain.training import train
from multigrain.training.batches import column_names
from multigrain.training.curriculum import Curriculum, plan
from multigrain.training.grade_schedules import phases_of
from multigrain.training.unique_texts import Features

DATA = DATA_SETS / "medquad"
PAIRS = 4000
"""Number of rows drawn from the training pairs."""
BANDS = {1: (60, 200), 2: (20, 60), 3: (5, 20), 4: (0, 5)}
"""Ranks from which a negative of each grade is drawn; the query's own positives do not count."""
BATCH, MAX_TOKENS, PLANNED = 64, 256, 10
SEED = 7
SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    is_stock: bool = False
    dropout: bool = False
    precision: str = "fp32"
    mini_batch_size: int = 1
    """Mini-batch size of stock."""
    micro_batch_tokens: int | None = None
    activation_gb: float | None = None
    """Setting of multigrain; None: its default."""
    leaves_out: bool = True
    """Whether multigrain leaves out false in-batch negatives."""

    @property
    def section(self) -> TrainingSection:
        """Return the settings of this training."""
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


def read(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def tuples() -> list[GradedTuple]:
    """Return some training pairs, each with a negative of every grade."""
    pairs, corpus = read("train.jsonl.gz"), [row["text"] for row in read("corpus.jsonl.gz")]
    positives: dict[str, set[str]] = {}
    for pair in pairs:
        positives.setdefault(folded(pair["query"]), set()).add(folded(pair["positive"]))
    draw = random.Random(SEED)
    drawn = draw.sample(pairs, PAIRS)
    nearest = Bm25Index([pair["query"] for pair in drawn], corpus, "english").nearest(depth=210).numbers.tolist()
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
    """Return the texts of these rows, by column."""
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
