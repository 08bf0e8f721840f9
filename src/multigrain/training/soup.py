"""Keep a share of the base in the weights: less is forgotten, for a little less gain."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def keeping_base(model: nn.Module, share: float) -> Iterator[None]:
    """When the block ends, each weight that was trained in it is share * before + (1 - share) * after.

    Source: WiSE-FT (arXiv 2109.01903), a soup of two models. What an adapter adds is a product of two matrices, of
    which the second begins with zeros; that one alone is moved, so that all it adds is multiplied by 1 - share.

    Args:
        model: is trained in the block.
        share: from 0, which changes nothing, to 1, which undoes the training.
    """
    moved = [p for name, p in model.named_parameters() if p.requires_grad and "lora_A" not in name] if share else []
    before = [parameter.detach().clone() for parameter in moved]
    yield
    with torch.no_grad():
        for parameter, old in zip(moved, before, strict=True):
            parameter.lerp_(old.to(parameter), share)
