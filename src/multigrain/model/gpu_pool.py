"""Several GPUs that encode at once, each in a process of its own, by sentence-transformers' multi-process pool."""

import os
import weakref
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer

from multigrain.config import Precision
from multigrain.model.embedding_model import EmbeddingModel

Pool = dict[Literal["input", "output", "processes"], Any]
"""What sentence-transformers starts, and takes for `encode(pool=...)`."""


def start_pool(model: SentenceTransformer, precision: Precision, owner: object) -> Pool | None:
    """Start a process for each GPU, where there are several; they end with their owner, or with this process.

    Args:
        model: encodes; it is moved to the CPU, from where the processes take it.
        precision: of their matrix products.
        owner: for as long as it lives, the processes do.
    """
    devices = _devices()
    if len(devices) < 2 or not isinstance(model, EmbeddingModel):
        return None
    model.pool_precision = precision
    pool: Pool = model.start_multi_process_pool(devices)
    weakref.finalize(owner, model.stop_multi_process_pool, pool)
    return pool


def _devices() -> list[str]:
    """List the GPUs of this process; under torchrun the others belong to other processes."""
    if "LOCAL_RANK" in os.environ:
        return []
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
