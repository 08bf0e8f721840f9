"""Matrix products in half precision (bfloat16), where the hardware can."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from multigrain.config import Precision
from multigrain.errors import ConfigError
from multigrain.terminal import say


def uses_bf16(precision: Precision, device: torch.device, key: str = "training.precision") -> bool:
    """Tell whether matrix products are to be in half precision.

    Raises:
        ConfigError: the GPU cannot.
    """
    if precision == "fp32":
        return False
    can = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    if precision == "bf16" and not can:
        if device.type == "cuda":
            raise ConfigError(key, ["found bf16; this GPU cannot. Take fp32"])
        say(f"  bf16 is slow on this CPU, which has no instructions for it; {key} = fp32 is faster")
        return True
    return bool(can)


def matrix_products(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Compute matrix products within a block in this precision; everything else stays in single precision."""
    enabled = uses_bf16(precision, device, "evaluation.precision")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
