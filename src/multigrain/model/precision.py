"""Matrix products in half precision (bfloat16), where the hardware supports it."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from multigrain.config import Precision
from multigrain.errors import ConfigError
from multigrain.terminal import say

for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    # On a CPU, torch keeps a compiled kernel with megabytes of buffers for each shape of a product in half precision,
    # up to 1,024 of them. Batches of texts have hundreds of shapes: 13 GB in a training of SmolLM2. 64 suffice for the
    # layers of a batch, and are as fast. torch reads these variables before its first product.
    os.environ.setdefault(cache, "64")


def uses_bf16(precision: Precision, device: torch.device, key: str = "training.precision") -> bool:
    """Return whether to compute matrix products in half precision.

    Raises:
        ConfigError: half precision is required, but the GPU does not support it.
    """
    if precision == "fp32":
        return False
    can = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    if precision == "bf16" and not can:
        if device.type == "cuda":
            raise ConfigError(key, ["found bf16; this GPU does not support it. Use fp32"])
        say(f'  bf16 is slow on this CPU, which has no instructions for it; {key} = "fp32" is faster')
        return True
    return bool(can)


def resolve(precision: Precision, key: str) -> Precision:
    """Return the precision in which this machine encodes, `bf16` or `fp32`, on its GPU if it has one.

    Raises:
        ConfigError: the GPU does not support the precision; names the setting `key`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if uses_bf16(precision, device, key) else "fp32"


def matrix_products(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Within the block, compute matrix products in `bf16` or `fp32`; everything else stays in single precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
