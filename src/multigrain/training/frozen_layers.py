"""The frozen layers below the trained ones: count them, and start a forward pass above them.

Letters: B texts, n tokens, D the size of a token's hidden state.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from multigrain.model.anchor_attention import evaluating

_UNLIKE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)
"""Errors of models whose layers pass each other more than one tensor."""


def frozen_depth(model: SentenceTransformer) -> int:
    """Count the lowest layers that a step can skip, because nothing in them is trained, dropped out or pooled.

    Return 0 if there are none, and for the few architectures whose layers pass each other more than one tensor.
    Dropout counts even in evaluation mode, because training will enable it.
    """
    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    if not layers or any(_drops(module) for module in model[0].modules() if id(module) not in inside):
        return 0
    depth = len(layers) - 1
    for index, layer in enumerate(layers):
        if _is_moving(layer):
            depth = index
            break
    return depth if depth and _is_enough(model, layers, depth) else 0


def layers_of(model: SentenceTransformer) -> list[Any]:
    """Return the layers, lowest first; an empty list if the architecture does not list them."""
    backbone: Any = model.transformers_model
    count = getattr(backbone.config.get_text_config(), "num_hidden_layers", 0)
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def hidden_size(model: SentenceTransformer) -> int:
    """Return D, the size of a token's hidden state."""
    transformer: Any = model[0]
    return int(transformer.get_embedding_dimension())


def _is_moving(layer: nn.Module) -> bool:
    """Return whether every step must compute the layer, for its output or its attention."""
    modules = list(layer.modules())
    looked_at = any(getattr(module, "anchor", None) is not None for module in modules)
    return looked_at or any(map(_drops, modules)) or any(weight.requires_grad for weight in layer.parameters())


def _drops(module: nn.Module) -> bool:
    """Return whether a module applies dropout. Many attention layers store only its rate, without a module."""
    rates = [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
    return any(rates) or (isinstance(module, nn.Dropout) and module.p > 0)


def _is_enough(model: SentenceTransformer, layers: list[Any], depth: int) -> bool:
    """Return whether nothing before the layer is trained, and this layer's input determines the model's output.

    This is tested on a text, because some architectures hide what their layers share (position biases, keys).
    """
    tokens = torch.tensor([[5, 6, 7]], device=model.device)
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    with torch.enable_grad(), evaluating(model):
        states = input_of(layers[depth], model, features)
        if states is None or states.requires_grad:
            return False
        whole = model[0](dict(features))
        try:
            with starting_from(layers[:depth], states):
                rest = model[0](dict(features))
        except _UNLIKE:
            return False
    return all(torch.allclose(whole[name], rest[name]) for name in whole if isinstance(whole[name], Tensor))


class _Reached(Exception):
    """Raised to end the forward pass at the layer; the layers above are not needed."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


def input_of(layer: nn.Module, model: SentenceTransformer, features: dict[str, Tensor]) -> Tensor | None:
    """Return the layer's input, the hidden states (B, n, D); None if the layer is not called."""

    def stop(_layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Reached(given[0] if given else named["hidden_states"])

    hook = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model[0](dict(features))
    except _Reached as reached:
        return reached.states
    finally:
        hook.remove()
    return None


@contextmanager
def starting_from(layers: list[Any], states: Tensor) -> Iterator[None]:
    """Within the block, the layers compute nothing, and their output is the given states.

    `forward` is overridden on each object, which takes precedence over the class's method and over gradient
    checkpointing. No name in the model's state changes.
    """

    def hand_on(hidden_states: Tensor, *_given: Any, **_named: Any) -> Tensor:
        return hidden_states

    def begin(hidden_states: Tensor, *_given: Any, **_named: Any) -> Tensor:
        return states.to(hidden_states)

    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = begin if layer is layers[0] else hand_on
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:  # set by another library
                layer.forward = forward
