"""An attention function that also tells how much attention each token receives, and the layers that are to use it.

transformers keeps whatever tensor an attention function returns as its second value. So the function registered here
computes every layer by the ordinary SDPA kernel, and only on the layers that `mark_anchor_layers` chose returns anchor
scores of shape (B, n) (`anchor_scores`) in place of attention weights of shape (B, H, n, n). One exception: SDPA knows
no soft cap, so models that have one keep the attention weights of every layer, as eager attention does.

Letters: B texts, H heads, K heads of keys (K divides H), n tokens, d dimensions of a head.

This file is shipped inside every saved model, beside `anchor_scores.py` and `attention_tiles.py`: it may import nothing
but torch, transformers and those files.
"""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .anchor_scores import AnchorSettings, anchor_scores, scores_of_weights
from .attention_tiles import AttentionRule, attend, seen_by_all

logger = logging.getLogger(__name__)

ATTENTION_NAME = f"multigrain_anchor_{zlib.crc32(__name__.encode()):08x}"
"""Each saved model loads its own copy of this file, under its own module name; none may take another's place."""

_called: ContextVar[list[nn.Module] | None] = ContextVar("multigrain_called", default=None)
"""The modules that have called the attention function, in order, while `_attention_modules` looks for them."""


def anchor_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend by SDPA; on a marked layer, give the anchor scores (B, n) as the second value.

    Args:
        module: the attention layer.
        query: (B, H, n, d).
        key: (B, K, n, d).
        value: (B, K, n, d).
        attention_mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive.
        scaling: factor on the dot products, d**-0.5 by default.
        is_causal: overrides the layer's own attribute, as in transformers.
        kwargs: `softcap` and `position_bias` change the attention, and so the scores; all are passed on to SDPA.

    Returns:
        The output of attention (B, n, H, d), and the scores, or None on a layer that is not marked.
    """
    if not torch.compiler.is_compiling() and (called := _called.get()) is not None:
        called.append(module)
    kwargs.pop("output_attentions", None)  # SDPA would warn that it has none to give
    if getattr(module, "sees_ahead", False):
        attention_mask, is_causal = seen_by_all(attention_mask), False
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rule = AttentionRule(
        scale=scale,
        mask=attention_mask,
        causal=causal and attention_mask is None,
        softcap=kwargs.pop("softcap", None),
    )
    bias = kwargs.get("position_bias")
    if rule.softcap is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs
        )
    else:  # SDPA has none
        output = attend(query, key, value, rule, kwargs.get("dropout", 0.0))
    settings: AnchorSettings | None = getattr(module, "anchor", None)
    return output, None if settings is None else anchor_scores(query, key, rule, settings, bias)


AttentionInterface.register(ATTENTION_NAME, anchor_attention)
# Without this no mask is built, and padded rows come out wrong without a word.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def mark_anchor_layers(model: PreTrainedModel, settings: AnchorSettings) -> tuple[int, ...]:
    """Have some attention layers of the model return anchor scores, as `anchor_scores_of` reads them.

    A model that does not go through transformers' attention interface, or may not use SDPA, is set to eager attention,
    which keeps the attention weights of all layers: the same scores for far more memory, except that in training they
    are of weights after dropout. The log says so, once for a kind of model.

    Returns:
        Where the chosen layers will be among the attentions that the model gives.

    Raises:
        ValueError: the model has no attention, or no such layers.
    """
    modules = _attention_modules(model)
    layers = len(modules) or _eager_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} shows no attention that anchor pooling could look at")
    for layer in settings.layers:
        if not -layers <= layer < layers:
            raise ValueError(f"there is no attention layer {layer}: {type(model).__name__} has {layers}")
    chosen = [layer % layers for layer in settings.layers]
    if not modules:
        return tuple(chosen)
    for module in modules:
        module.anchor = None
    for layer in chosen:
        modules[layer].anchor = settings
    # Layers may share one module, which then gives scores at each of its calls.
    giving = [layer for layer, module in enumerate(modules) if module.anchor is not None]
    given = getattr(_probe(model, output_attentions=True), "attentions", None) or ()
    if [scores.dim() for scores in given] != [2] * len(giving):
        raise ValueError(f"{type(model).__name__} does not hand on what its attention gives")
    return tuple(giving.index(layer) for layer in chosen)


def let_see_ahead(model: PreTrainedModel, layers: int) -> None:
    """Have the tokens of the last layers see those after them too; those of the layers below stay as they are.

    Where only the upper layers are trained, those below would never learn to make use of what they see.

    Raises:
        ValueError: the attention of the model cannot be changed, or it has fewer layers.
    """
    modules = _attention_modules(model)
    if not modules:
        raise ValueError(f"the attention of a {type(model).__name__} cannot be changed layer by layer")
    if layers > len(modules):
        raise ValueError(f"{layers} layers are to see ahead, and a {type(model).__name__} has {len(modules)}")
    for module in modules[-layers:]:
        module.sees_ahead = True


def anchor_scores_of(
    attentions: tuple[Tensor, ...], places: tuple[int, ...], mask: Tensor, settings: AnchorSettings
) -> Tensor:
    """Average the scores of the marked layers.

    Args:
        attentions: what a marked model gave as its attentions: scores (B, n), or weights (B, H, n, n) if it is set
            to eager attention.
        places: where among them the chosen layers are, as `mark_anchor_layers` returned.
        mask: (B, n), 0 for padding.
        settings: those that the model was marked with.

    Returns:
        (B, n).
    """
    if attentions and attentions[0].dim() == 4:
        chosen = [scores_of_weights(attentions[layer], mask.bool(), settings) for layer in settings.layers]
    else:
        chosen = [attentions[place] for place in places]
    return chosen[0] if len(chosen) == 1 else torch.stack(chosen).mean(0)


def _attention_modules(model: PreTrainedModel) -> list[Any]:
    """Set the model to the attention function and list the modules that call it, in order; none if it cannot be set.

    They are found by running two tokens through the model: not every architecture numbers its layers.
    """
    softcap = getattr(model.config, "attn_logit_softcapping", None)  # why such a model may not use SDPA; we can do it
    if not (model._supports_sdpa or softcap):
        return []
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except (ValueError, AttributeError):
        return []
    called: list[nn.Module] = []
    token = _called.set(called)
    try:
        _probe(model)
    finally:
        _called.reset(token)
    return called


def _eager_layers(model: PreTrainedModel) -> int:
    """Set the model to eager attention and count the layers that show their weights."""
    model.set_attn_implementation("eager")
    try:
        attentions = getattr(_probe(model, output_attentions=True), "attentions", None) or ()
    except TypeError:  # no such argument
        return 0
    if any(weights is None or weights.dim() != 4 for weights in attentions):
        return 0
    if attentions:
        _warn_of_eager(type(model).__name__)
    return len(attentions)


@cache
def _warn_of_eager(name: str) -> None:
    logger.warning(
        f"{name} cannot use SDPA through transformers' attention interface: "
        "its eager attention is used, which is slower and takes far more memory"
    )


def _probe(model: PreTrainedModel, **options: bool) -> Any:
    tokens = torch.ones(1, 2, dtype=torch.long, device=model.device)
    with torch.no_grad(), evaluating(model):
        return model(input_ids=tokens, attention_mask=tokens, **options)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block without dropout; after it, every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
