"""Encode on several GPUs, one process each, with the multi-process pool of sentence-transformers."""

import os
import weakref
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer

from multigrain.config import Precision
from multigrain.model.embedding_model import EmbeddingModel

Pool = dict[Literal["input", "output", "processes"], Any]
"""A pool as started by sentence-transformers, for `encode(pool=...)`."""


def start_pool(model: SentenceTransformer, precision: Precision, owner: object) -> Pool | None:
    """Start a process for each GPU, if there are several; return None otherwise.

    Args:
        model: the model, which is moved to the CPU and shared with the processes.
        precision: the precision of matrix products in the processes.
        owner: the object whose lifetime the processes share; they also end with this process.
    """
    devices = _devices()
    if len(devices) < 2 or not isinstance(model, EmbeddingModel):
        return None
    model.pool_precision = precision
    pool: Pool = model.start_multi_process_pool(devices)
    weakref.finalize(owner, model.stop_multi_process_pool, pool)
    return pool


def _devices() -> list[str]:
    """List the GPUs for a pool; none under torchrun, where each GPU belongs to one process."""
    if "LOCAL_RANK" in os.environ:
        return []
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
