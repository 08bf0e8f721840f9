"""The cell `rows`: describe the batches, without timing."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import _minibatch_ranges

from benchmarks.training_speed.data import BATCH, PLANNED, SIZES, Arm, columns_of, load, planned, tokenized
from multigrain.training import gathered, train
from multigrain.training.curriculum import Curriculum
from multigrain.training.unique_texts import Features, distinct


def rows_cell() -> dict[str, Any]:
    """Describe the batches, without timing."""
    model = load(Arm())
    result: dict[str, Any] = {}
    for by_task in (True, False):
        curriculum = planned(by_task=by_task)
        steps = [batch_of(model, curriculum, step) for step in range(PLANNED)]
        result["by task" if by_task else "mixed"] = {name: [step[name] for step in steps] for name in steps[0]}
    return result


def batch_of(model: SentenceTransformer, curriculum: Curriculum, step: int) -> dict[str, float]:
    """Count texts, tokens and padding of a batch."""
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
    """Return the share of padding among the encoded tokens."""
    real = encoded = 0
    for column in columns:
        lengths = column["attention_mask"].sum(dim=1)
        ranges = _minibatch_ranges(column, size, size if is_tokens else None)
        real += int(lengths.sum())
        encoded += sum((end - begin) * int(lengths[begin:end].max()) for begin, end in ranges)
    return round(1 - real / encoded, 3)
