"""Weight interpolation (WiSE-FT): move the trained weights part of the way back to the base model.

Fine-tuning gains on the user's data and loses elsewhere. Averaging the weights from before and after keeps most of the
gain and loses less (Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*, arXiv 2109.01903).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def interpolated_with_base(model: nn.Module, base_share: float) -> Iterator[None]:
    """Interpolate each weight that the block trains: base_share * before + (1 - base_share) * after.

    An adapter adds the product of two matrices B and A, where B starts at zero. Only B is interpolated, which scales
    the adapter's contribution by 1 - base_share.

    Args:
        model: the model trained in the block.
        base_share: from 0, which changes nothing, to 1, which undoes the training.

    Example:
        >>> with interpolated_with_base(model, 0.3):  # doctest: +SKIP
        ...     train_model(model, curriculum, section, folder, seed=7)
    """
    moved: list[nn.Parameter] = []
    if base_share:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                moved.append(parameter)
    before = [parameter.detach().clone() for parameter in moved]
    yield
    with torch.no_grad():
        for parameter, old in zip(moved, before, strict=True):
            parameter.lerp_(old.to(parameter), base_share)
