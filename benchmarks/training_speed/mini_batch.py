"""The cell `mini-batch`: measure the best mini-batch size for stock."""

import time
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from benchmarks.training_speed.data import SIZES, Arm, columns_of, load, planned, tokenized

SWEPT_ROWS, SWEPT_COLUMNS = 32, 3


def mini_batch_cell() -> dict[str, Any]:
    """Return seconds of processor time for a quarter of a batch, forward and backward, without the optimizer."""
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
    for size in (SIZES[2], *SIZES):  # the first is the warm-up, and is overwritten
        step = CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=size)
        model.zero_grad()
        begun = time.process_time()
        step([dict(column) for column in columns], torch.zeros(0)).backward()
        seconds[str(size)] = round(time.process_time() - begun, 2)
        print(dropout, size, seconds[str(size)], flush=True)
    return seconds
