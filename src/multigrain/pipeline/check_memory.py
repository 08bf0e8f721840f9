"""Estimate the memory that training needs, from the files of the base and the settings. No torch."""

import math
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
"""Bytes of a frozen number in 4 bits, with its scale."""
SMOLLM_WEIGHTS = 134_515_008
ADAM = 4
"""Numbers for each weight that is trained: itself, its gradient, and both moments of AdamW."""
SAVED = 17
"""Numbers for each token, layer and unit of its width that the backward pass needs: the layer's input, query, key,
value, output of the attention, both sums and one norm, and two of four times the width in its feed-forward part."""
ADAPTED = 18
"""Numbers of an adapter for each layer, unit of its width and rank: of four square matrices, and of two that are four
times as wide."""
LIBRARIES = 0.6 * GB
"""What Python takes with torch, transformers and sentence-transformers loaded."""


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of a training in bytes, by what it is for."""

    weights: float
    """Weights, gradients, and the moments of the optimizer."""
    activations: float
    """What the backward pass needs, and a micro-batch beyond it where texts are encoded twice."""

    @property
    def total(self) -> float:
        """All of it, the libraries included."""
        return self.weights + self.activations + LIBRARIES


def training_memory(config: Config, size: Size) -> TrainingMemory | None:
    """Estimate the memory of the process that trains.

    With W weights of which T are trained, it is 4 W + 12 T bytes (another 4 W where `training.base_share` keeps those
    of the base), 68 bytes for each token, layer and unit of width as far as `training.activation_gb` goes, and 0.6 GB
    of libraries.

    Args:
        config: the run.
        size: of its data.

    Returns:
        None where the base is not on this disk, or its files do not tell.
    """
    shape, weights = layers_and_width(config.model.base), _weights(config.model.base)
    if shape is None or weights is None:
        return None
    layers, width = shape
    lora, section = config.model.lora, config.training
    each = QUANTIZED if lora and lora.quantize else FLOAT
    trained = min(lora.top_layers or layers, layers) * ADAPTED * width * lora.rank if lora else weights
    held = weights * each + trained * (ADAM - 1) * FLOAT
    if section.base_share:
        held += trained * FLOAT
    return TrainingMemory(held, _activations(config, size, SAVED * FLOAT * layers * width))


def _weights(model: str) -> int | None:
    if model == EMBEDDED_LLM:
        return SMOLLM_WEIGHTS
    folder = folder_of(model)
    return weights_in(transformer_of(folder)) if folder else None


def _activations(config: Config, size: Size, each: int) -> float:
    """Return the bytes of activations: of all texts of a step, or of those that may be kept and a micro-batch more."""
    section = config.training
    wanted = tokens_trained(config, size) / section.total_steps(size.pairs) * each
    micro_batch = min((section.micro_batch_tokens or 1024) * each, wanted)
    return min(wanted, section.activation_gb * GB + micro_batch)


def share_encoded_twice(config: Config, tokens: float) -> float:
    """Return the share of a step's tokens whose activations do not fit `training.activation_gb`, from 0 to 1."""
    shape = layers_and_width(config.model.base)
    if shape is None or not tokens:
        return 0.0
    wanted = tokens * SAVED * FLOAT * math.prod(shape)
    return max(0.0, 1 - config.training.activation_gb * GB / wanted)


def memory_lines(config: Config, size: Size) -> list[str]:
    """Tell what memory training needs, and where this machine has less."""
    found = training_memory(config, size)
    if found is None:
        return ["  memory      of training: unknown, the base is not on this disk"]
    parts = f"{_gb(found.weights)} weights, gradients and optimizer, {_gb(found.activations)} activations"
    lines = [f"  memory      of training: about {_gb(found.total)} GB ({parts}, the rest libraries)"]
    if found.total > (there := _there()):
        lines.append(
            f"  beware      training needs about {_gb(found.total)} GB, and this machine has {_gb(there)}; lower "
            "training.activation_gb, train an adapter (model.lora), or take a smaller base"
        )
    return lines


def _there() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gb(number: float) -> str:
    return f"{number / GB:.1f}"
