"""An attention function that also returns how much attention each token receives, and functions to install it.

transformers collects any tensor that an attention function returns as its second value. The function registered here
computes every layer with the ordinary SDPA kernel. On the layers chosen by `mark_anchor_layers`, it returns anchor
scores of shape (B, n) (`anchor_scores`) in place of attention weights of shape (B, H, n, n). There is one exception:
SDPA has no soft cap, so models with one hold the attention weights of every layer in memory, as eager attention does.

Letters: B texts, H heads, K heads of keys (K divides H), n tokens, d dimensions of a head.

This file is part of every saved model, beside `anchor_scores.py` and `attention_tiles.py`, so it may import nothing but
torch, transformers and those files.
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
"""A name unique to this copy of the file: each saved model loads its own copy, and none may replace another."""

_called: ContextVar[list[nn.Module] | None] = ContextVar("multigrain_called", default=None)
"""The modules that have called the attention function, in order, while `_attention_modules` records them."""


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
    """Compute attention with SDPA; on a marked layer, return the anchor scores (B, n) as the second value.

    Args:
        module: the attention layer.
        query: (B, H, n, d).
        key: (B, K, n, d).
        value: (B, K, n, d).
        attention_mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive.
        scaling: factor on the dot products, d**-0.5 by default.
        is_causal: overrides the layer's own attribute, as in transformers.
        kwargs: options of SDPA. `softcap` and `position_bias` also change the scores.

    Returns:
        The output of attention (B, n, H, d), and the scores, or None on an unmarked layer.
    """
    if not torch.compiler.is_compiling() and (called := _called.get()) is not None:
        called.append(module)
    kwargs.pop("output_attentions", None)  # SDPA would warn that it returns none
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
    else:  # SDPA has no soft cap
        output = attend(query, key, value, rule, kwargs.get("dropout", 0.0))
    settings: AnchorSettings | None = getattr(module, "anchor", None)
    return output, None if settings is None else anchor_scores(query, key, rule, settings, bias)


AttentionInterface.register(ATTENTION_NAME, anchor_attention)
# Without this, transformers builds no mask, and padded rows are silently wrong.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def mark_anchor_layers(model: PreTrainedModel, settings: AnchorSettings) -> tuple[int, ...]:
    """Make some attention layers of the model return anchor scores, for `anchor_scores_of` to read.

    A model without SDPA, or without the attention interface of transformers, is switched to eager attention, which
    keeps the attention weights of all layers. The scores are the same, except that in training they include dropout,
    but this takes far more memory. A warning is logged once for each model class.

    Returns:
        The index of each chosen layer among the attentions that the model returns.

    Raises:
        ValueError: the model's attention is not accessible, or it lacks a layer.
    """
    modules = _attention_modules(model)
    layers = len(modules) or _eager_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} gives no access to its attention, which anchor pooling needs")
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
    # Layers may share one module, which then returns scores at each of its calls.
    giving = [layer for layer, module in enumerate(modules) if module.anchor is not None]
    given = getattr(_probe(model, output_attentions=True), "attentions", None) or ()
    if [scores.dim() for scores in given] != [2] * len(giving):
        raise ValueError(f"{type(model).__name__} does not pass on the results of its attention")
    return tuple(giving.index(layer) for layer in chosen)


def let_see_ahead(model: PreTrainedModel, layers: int) -> None:
    """Make tokens see later tokens too in the last layers; the layers below stay unchanged.

    If only the upper layers are trained, those below could not learn to use later tokens.

    Raises:
        ValueError: the attention of the model cannot be changed, or it has fewer layers.
    """
    modules = _attention_modules(model)
    if not modules:
        raise ValueError(f"the attention of a {type(model).__name__} cannot be changed layer by layer")
    if layers > len(modules):
        raise ValueError(f"found {layers} layers to see ahead; a {type(model).__name__} has {len(modules)}")
    for module in modules[-layers:]:
        module.sees_ahead = True


def anchor_scores_of(
    attentions: tuple[Tensor, ...], places: tuple[int, ...], mask: Tensor, settings: AnchorSettings
) -> Tensor:
    """Average the scores of the marked layers.

    Args:
        attentions: the attentions returned by a marked model: scores (B, n), or weights (B, H, n, n) if it uses eager
            attention.
        places: indices of the chosen layers in `attentions`, from `mark_anchor_layers`.
        mask: (B, n), 0 for padding.
        settings: the settings given to `mark_anchor_layers`.

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

    Two tokens are run through the model to find them, because not every architecture numbers its layers.
    """
    softcap = getattr(model.config, "attn_logit_softcapping", None)  # not supported by SDPA, but by `attend`
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
    """Set the model to eager attention, and count the layers that return their attention weights."""
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
        f"{name} cannot use SDPA through the attention interface of transformers: "
        "using eager attention, which is slower and takes far more memory"
    )


def _probe(model: PreTrainedModel, **options: bool) -> Any:
    tokens = torch.ones(1, 2, dtype=torch.long, device=model.device)
    with torch.no_grad(), evaluating(model):
        return model(input_ids=tokens, attention_mask=tokens, **options)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, switch to evaluation mode; then restore the mode of every module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
