"""Estimate the memory of a training from the files of the base and the settings. Does not import torch."""

import os
from dataclasses import dataclass

from multigrain.config import Config
from multigrain.model.file_integrity import weights_in
from multigrain.model.files import EMBEDDED_LLM, folder_of
from multigrain.model.saved_settings import transformer_of
from multigrain.pipeline.forecast import Size, layers_and_width, tokens_trained

GB = 10**9
FLOAT = 4
"""Bytes of a number in single precision."""
QUANTIZED = 0.75
"""Bytes of a frozen number in 4 bits, including its scale."""
SMOLLM_WEIGHTS = 134_515_008
ADAM = 4
"""Numbers for each trained weight: itself, its gradient, and both moments of AdamW."""
SAVED = 17
"""Numbers that the backward pass needs for each token, layer and unit of width: input, query, key, value, attention
output, both sums and one norm of the layer, and two of four times the width in its feed-forward part."""
DROPPED = 50
"""Bytes that an adapter with dropout needs for each token, layer and unit of width: its six inputs of the layer's width
and one of four times the width after dropout, each with a mask of one byte."""
ADAPTED = 18
"""Numbers of an adapter for each layer, unit of width and rank: four square matrices, and two four times as wide."""
LIBRARIES = 0.6 * GB
"""Memory of Python with torch, transformers and sentence-transformers loaded, in bytes."""


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of a training by purpose, in bytes."""

    weights: float
    """Weights, gradients, and the moments of the optimizer."""
    activations: float
    """Activations for the backward pass, plus one micro-batch if texts are encoded twice."""

    @property
    def total(self) -> float:
        """Total memory, including the libraries."""
        return self.weights + self.activations + LIBRARIES


def training_memory(config: Config, size: Size) -> TrainingMemory | None:
    """Estimate the memory of the training process.

    For W weights of which T are trained, it is 4 W + 12 T bytes (another 4 T if `training.base_share` keeps those of
    the base), 68 bytes for each token, layer and unit of width (118 in a layer with an adapter with dropout) up to
    `training.activation_gb`, and 0.6 GB of libraries.

    Args:
        config: the run.
        size: size of the run's data.

    Returns:
        None if the base is not on this disk, or its files do not give its size.
    """
    shape, weights = layers_and_width(config.model.base), weights_of(config.model.base)
    if shape is None or weights is None:
        return None
    layers, width = shape
    lora, section = config.model.lora, config.training
    each = QUANTIZED if lora and lora.quantize else FLOAT
    trained = min(lora.top_layers or layers, layers) * ADAPTED * width * lora.rank if lora else weights
    held = weights * each + trained * (ADAM - 1) * FLOAT
    if section.base_share:
        held += trained * FLOAT
    return TrainingMemory(held, _activations(config, size, _bytes_of_token(config, layers, width)))


def weights_of(model: str) -> int | None:
    """Return the number of parameters of a model on this disk; None if unknown."""
    if model == EMBEDDED_LLM:
        return SMOLLM_WEIGHTS
    folder = folder_of(model)
    return weights_in(transformer_of(folder)) if folder else None


def _bytes_of_token(config: Config, layers: int, width: int) -> int:
    """Return the bytes of a token's activations in all layers."""
    lora = config.model.lora
    with_dropout = min(lora.top_layers or layers, layers) if lora and lora.dropout else 0
    return (SAVED * FLOAT * layers + DROPPED * with_dropout) * width


def _activations(config: Config, size: Size, each: int) -> float:
    """Return the bytes of activations: of all texts of a step, or of those that may be kept plus a micro-batch."""
    section = config.training
    wanted = tokens_trained(config, size) / section.total_steps(size.pairs) * each
    micro_batch = min((section.micro_batch_tokens or 1024) * each, wanted)
    return min(wanted, section.activation_gb * GB + micro_batch)


def share_encoded_twice(config: Config, tokens: float) -> float:
    """Return the share of a step's tokens whose activations exceed `training.activation_gb`, from 0 to 1."""
    shape = layers_and_width(config.model.base)
    if shape is None or not tokens:
        return 0.0
    wanted = tokens * _bytes_of_token(config, *shape)
    return max(0.0, 1 - config.training.activation_gb * GB / wanted)


def memory_lines(config: Config, size: Size) -> list[str]:
    """Describe the memory that training needs, and warn if this machine has less."""
    found = training_memory(config, size)
    if found is None:
        return ["  memory      of training: unknown, the base is not downloaded yet"]
    parts = f"{_gb(found.weights)} weights, gradients and optimizer, {_gb(found.activations)} activations"
    lines = [f"  memory      of training: about {_gb(found.total)} GB ({parts}, the rest libraries)"]
    if found.total > (there := _there()):
        lines.append(
            f"  warning     training needs about {_gb(found.total)} GB, and this machine has {_gb(there)} GB; lower "
            "training.activation_gb, train an adapter (model.lora), or use a smaller base"
        )
    return lines


def _there() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gb(number: float) -> str:
    return f"{number / GB:.1f}"
