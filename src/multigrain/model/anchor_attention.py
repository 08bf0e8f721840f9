"""An attention function that also tells how much attention each token receives.

For the last layer's attention A[h, i, j] (head h, query i, key j; each row sums to 1 over j) and n valid
tokens, the anchor score of token j is

    log form     score_j = sum over h, i of log(1 + n * A[h, i, j])
    linear form  score_j = sum over h, i of A[h, i, j]

with i over valid tokens only (*Negative Matters*, ACL 2025; the log form is the paper's as far as it is
known). The log damps attention sinks: a token that takes all attention weighs log2(1 + n) times as much as
one that takes an even share, not n times.

transformers keeps whatever tensor an attention function returns as its second value. So the function
registered here computes every layer by the ordinary SDPA kernel, and only on the layers that
`mark_anchor_layers` chose returns scores of shape (batch, n) in place of attention weights of shape
(batch, heads, n, n).

This file is shipped inside every saved model: it may import nothing but torch and transformers.
"""

import zlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION_NAME = f"multigrain_anchor_{zlib.crc32(__name__.encode()):08x}"
"""Each saved model loads its own copy of this file, under its own module name; none may take another's place."""
CHUNK_BYTES = 8 * 2**20
"""Size of the fp32 tile of attention weights that is in memory at once."""

Form = Literal["log", "linear"]


@dataclass(frozen=True)
class AnchorSettings:
    """How scores are made: see `multigrain.model.pooling.AnchorPooling`."""

    form: Form = "log"
    layers: tuple[int, ...] = (-1,)
    visibility_correction: bool = False


_called: ContextVar[list[nn.Module] | None] = ContextVar("multigrain_called", default=None)


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
    """SDPA, and on a marked layer the anchor scores (batch, n) as the second value.

    Args:
        module: the attention layer.
        query: (B, H, n, d).
        key: (B, K, n, d), K dividing H (grouped queries).
        value: (B, K, n, d).
        attention_mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive.
        scaling: factor on the dot products, d**-0.5 by default.
        is_causal: overrides the layer's own attribute, as in transformers.
        kwargs: passed on to SDPA.
    """
    called = _called.get()
    if called is not None:
        called.append(module)
    kwargs.pop("output_attentions", None)  # SDPA would warn that it has none to give
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs
    )
    settings = getattr(module, "anchor", None)
    if settings is None:
        return output, None
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return output, anchor_scores(query, key, attention_mask, scale, causal and attention_mask is None, settings.form)


AttentionInterface.register(ATTENTION_NAME, anchor_attention)
# Without this no mask is built, and padded rows come out wrong without a word.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def anchor_scores(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, causal: bool = False, form: str = "log"
) -> Tensor:
    """Attention that each token receives, summed over heads and valid queries.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive. Its diagonal tells which tokens
            are valid: a token always sees itself, unless it is padding.
        scale: factor on the dot products.
        causal: with no mask, token i sees tokens up to i only.
        form: "log" or "linear".

    Returns:
        (B, n), in float32 or wider; 0 for padding.
    """
    batch, heads, length, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    allowed = _allowed(mask, length, causal, query.device)
    valid = torch.diagonal(allowed, dim1=-2, dim2=-1)[:, 0].expand(batch, length)
    count = valid.sum(-1).to(dtype).view(batch, 1, 1, 1)
    rows = max(1, CHUNK_BYTES // (batch * heads * length * 4))
    scores = torch.zeros(batch, length, dtype=dtype, device=query.device)
    for start in range(0, length, rows):
        part = slice(start, start + rows)
        logits = (query[:, :, part] @ key.transpose(-1, -2)).to(dtype) * scale
        if mask is not None and mask.dtype != torch.bool:
            logits = logits + mask[:, :, part, :length].to(dtype)
        logits = logits.masked_fill(~allowed[:, :, part], -torch.inf)
        # A padding row may see nothing at all; the softmax of that, and its gradient, are not numbers.
        padding = ~valid[:, None, part, None]
        weights = logits.masked_fill(padding, 0.0).softmax(-1)
        received = torch.log1p(count * weights) if form == "log" else weights
        scores = scores + received.masked_fill(padding, 0.0).sum((1, 2))
    return scores.masked_fill(~valid, 0.0)


def _allowed(mask: Tensor | None, length: int, causal: bool, device: torch.device) -> Tensor:
    """(B or 1, 1, n, n), True where query i sees key j."""
    if mask is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=device)
        return (seen.tril() if causal else seen)[None, None]
    mask = mask[..., :length]
    # Additive masks put a very negative number, not always minus infinity, where nothing is seen.
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def mark_anchor_layers(model: PreTrainedModel, settings: AnchorSettings) -> None:
    """Have some attention layers of the model return anchor scores.

    The layers are found by running two tokens through the model and noting which attention modules were called: not
    every architecture numbers its layers.

    Raises:
        ValueError: the model has no such layers, or does not use transformers' attention interface.
    """
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except (ValueError, AttributeError) as error:
        raise ValueError(_unsupported(model)) from error
    modules = _attention_modules(model)
    if not modules:
        raise ValueError(_unsupported(model))
    for module in modules:
        module.anchor = None
    for layer in settings.layers:
        if not -len(modules) <= layer < len(modules):
            raise ValueError(f"there is no attention layer {layer}: {type(model).__name__} has {len(modules)}")
        modules[layer].anchor = settings


def anchor_scores_of(attentions: tuple[Tensor, ...]) -> Tensor:
    """(B, n), the mean of the marked layers' scores.

    Args:
        attentions: what a marked model gave as its attentions.
    """
    return attentions[0] if len(attentions) == 1 else torch.stack(attentions).mean(0)


def _attention_modules(model: PreTrainedModel) -> list[Any]:
    called: list[nn.Module] = []
    token = _called.set(called)
    training = model.training
    tokens = torch.ones(1, 2, dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            model.eval()(input_ids=tokens, attention_mask=tokens)
    finally:
        _called.reset(token)
        model.train(training)
    return called


def _unsupported(model: PreTrainedModel) -> str:
    return (
        f"{type(model).__name__} does not go through transformers' attention interface, so anchor pooling "
        'cannot see its attention; choose another base or pooling = "mean"'
    )
