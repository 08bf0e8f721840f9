"""An attention function that also tells how much attention each token receives.

For the attention A[h, i, j] of a layer (head h, query i, key j; each row sums to 1 over j) and n valid tokens, the
anchor score of token j is

    log form     score_j = sum over h, i of log(1 + n * A[h, i, j])
    linear form  score_j = sum over h, i of A[h, i, j]

with i over valid tokens only (*Negative Matters*, ACL 2025; the log form is the paper's as far as it is known). The
log damps attention sinks: a token that takes all attention weighs log2(1 + n) times as much as one that takes an even
share, not n times.

transformers keeps whatever tensor an attention function returns as its second value. So the function registered here
computes every layer by the ordinary SDPA kernel, and only on the layers that `mark_anchor_layers` chose returns scores
of shape (B, n) in place of attention weights of shape (B, H, n, n). It computes A a second time, a tile at a time,
and once more in the backward pass: nothing of the size of A is ever kept. Two exceptions: SDPA knows no soft cap, so
models that have one keep A of every layer, as eager attention does; and compiled or exported, A of the chosen layers is
computed in one piece.

Letters: B texts, H heads, K heads of keys (K divides H), n tokens, d dimensions of a head.

This file is shipped inside every saved model: it may import nothing but torch and transformers.
"""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

logger = logging.getLogger(__name__)

ATTENTION_NAME = f"multigrain_anchor_{zlib.crc32(__name__.encode()):08x}"
"""Each saved model loads its own copy of this file, under its own module name; none may take another's place."""
CPU_TILE_BYTES = 2 * 2**20
"""Size of the tile of attention weights that is in memory at once: what fits into a core's cache."""
ACCELERATOR_TILE_BYTES = 128 * 2**20
"""There, launching many small kernels costs more than memory does."""

UNSEEN = -9e3
"""An additive mask puts this or less where nothing is seen: minus infinity, the type's least number, -1e9 or -1e4."""

Form = Literal["log", "linear"]


@dataclass(frozen=True)
class AnchorSettings:
    """How scores are made: see `multigrain.model.pooling.AnchorPooling`."""

    form: Form = "log"
    layers: tuple[int, ...] = (-1,)
    visibility_correction: bool = False


@dataclass(frozen=True)
class AttentionRule:
    """How the products of queries and keys become attention.

    Args:
        scale: factor on the dot products.
        mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive. Its diagonal tells which tokens are
            valid: a token always sees itself, unless it is padding.
        causal: with no mask, token i sees tokens up to i only.
        softcap: logits are bent to softcap * tanh(logits / softcap).
    """

    scale: float
    mask: Tensor | None = None
    causal: bool = False
    softcap: float | None = None


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
    """SDPA, and on a marked layer the anchor scores (B, n) as the second value.

    Args:
        module: the attention layer.
        query: (B, H, n, d).
        key: (B, K, n, d).
        value: (B, K, n, d).
        attention_mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive.
        scaling: factor on the dot products, d**-0.5 by default.
        is_causal: overrides the layer's own attribute, as in transformers.
        kwargs: `softcap` and `position_bias` change the attention, and so the scores; all are passed on to SDPA.
    """
    if not torch.compiler.is_compiling() and (called := _called.get()) is not None:
        called.append(module)
    kwargs.pop("output_attentions", None)  # SDPA would warn that it has none to give
    if getattr(module, "sees_ahead", False):
        attention_mask, is_causal = _seen_by_all(attention_mask), False
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rule = AttentionRule(scale, attention_mask, causal and attention_mask is None, kwargs.pop("softcap", None))
    bias = kwargs.get("position_bias")
    if rule.softcap is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs
        )
    else:  # SDPA has none
        output = _attend(query, key, value, rule, kwargs.get("dropout", 0.0))
    settings: AnchorSettings | None = getattr(module, "anchor", None)
    return output, None if settings is None else anchor_scores(query, key, rule, settings, bias)


AttentionInterface.register(ATTENTION_NAME, anchor_attention)
# Without this no mask is built, and padded rows come out wrong without a word.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def anchor_scores(
    query: Tensor,
    key: Tensor,
    rule: AttentionRule,
    settings: AnchorSettings = AnchorSettings(),
    bias: Tensor | None = None,
) -> Tensor:
    """Attention that each token receives, summed over heads and valid queries.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        rule: how these become attention.
        settings: `form` and `visibility_correction` are used.
        bias: (B or 1, H or 1, n, n), added to the logits.

    Returns:
        (B, n), in float32 or wider; 0 for padding. Differentiable in query, key and bias.
    """
    if rule.mask is not None and rule.mask.dtype != torch.bool:
        bias = rule.mask if bias is None else bias + rule.mask
        rule = replace(rule, mask=rule.mask > UNSEEN)
    log = settings.form == "log"
    with torch.autocast(query.device.type, enabled=False):  # it would take the products in half precision
        # Compiled or exported, the loop over tiles would be unrolled, for one length.
        score = _scores_in_one_piece if torch.compiler.is_compiling() else _AnchorScores.apply
        scores: Tensor = score(query, key, bias, rule, log)
    return scores / _seen_by(rule, scores) if settings.visibility_correction else scores


def _seen_by(rule: AttentionRule, scores: Tensor) -> Tensor:
    """(B or 1, n), how many valid tokens see each token; 1 for padding, which none sees."""
    if rule.mask is None:
        length = scores.shape[1]
        numbers = torch.arange(length, 0, -1, device=scores.device)
        return (numbers if rule.causal else torch.full_like(numbers, length))[None]
    return (rule.mask & _valid(rule.mask)[:, None, :, None]).sum(-2)[:, 0].clamp_min(1)


def _valid(mask: Tensor) -> Tensor:
    """(B or 1, n), the diagonal of a boolean mask: True for whatever is not padding."""
    return torch.diagonal(mask, dim1=-2, dim2=-1)[:, 0]


def _seen_by_all(mask: Tensor | None) -> Tensor | None:
    """The mask in whose place every token sees all that is not padding."""
    if mask is None:
        return None
    valid = _valid(mask if mask.dtype == torch.bool else mask > UNSEEN)
    return valid[:, None, None].expand(-1, -1, mask.shape[-2], -1)


@dataclass(frozen=True)
class _Tile:
    """A part of the attention: some texts, some of their queries (rows), and the first keys, which they may see."""

    texts: slice
    rows: slice
    columns: slice


def _tiles(query: Tensor, causal: bool) -> Iterator[_Tile]:
    """Several whole texts where they fit into a tile, else some rows of one."""
    texts, heads, length, _ = query.shape
    row_bytes = 4 * heads * length
    size = CPU_TILE_BYTES if query.device.type == "cpu" else ACCELERATOR_TILE_BYTES
    rows = min(length, max(1, size // row_bytes))
    together = max(1, size // (row_bytes * length))
    for text in range(0, texts, together):
        for row in range(0, length, rows):
            end = min(row + rows, length)
            yield _Tile(slice(text, text + together), slice(row, end), slice(0, end if causal else length))


def _logits(query: Tensor, key: Tensor, bias: Tensor | None, rule: AttentionRule, tile: _Tile) -> Tensor:
    """(b, H, r, c), a tile of what the softmax is taken of, in the type of `key`."""
    folded, keys = _fold(query, key, rule, tile)
    texts, rows = query[tile.texts, 0, tile.rows, 0].shape
    logits = (folded @ keys.transpose(-1, -2)).reshape(texts, query.shape[1], rows, -1)
    if bias is not None:
        logits = logits + _cut(bias, tile)
    if rule.softcap is not None:
        logits = rule.softcap * torch.tanh(logits / rule.softcap)
    # A padding row may see nothing at all. Its softmax is a number, because this is one; it is not counted.
    unseen = torch.finfo(logits.dtype).min
    if rule.mask is not None:
        logits = logits.masked_fill(~_cut(rule.mask, tile), unseen)
    elif rule.causal:
        corner = logits[..., tile.rows.start or 0 :]
        corner.masked_fill_(torch.ones_like(corner[0, 0], dtype=torch.bool).triu(1), unseen)
    return logits


def _fold(query: Tensor, key: Tensor, rule: AttentionRule, tile: _Tile) -> tuple[Tensor, Tensor]:
    """Scaled queries (b, K, H/K * r, d) and keys (b, K, c, d) of the tile, in the type of `key`.

    Heads that share a key follow one another: to that key they are more rows.
    """
    part, keys = query[tile.texts, :, tile.rows], key[tile.texts, :, tile.columns]
    scaled = part.to(keys.dtype) * rule.scale
    return scaled.reshape(part.shape[0], keys.shape[1], -1, part.shape[-1]), keys


def _cut(full: Tensor, tile: _Tile) -> Tensor:
    """The tile's part of a mask or bias, which may be the same for all texts."""
    return full[tile.texts if full.shape[0] > 1 else slice(None), :, tile.rows, tile.columns]


@dataclass(frozen=True)
class _Rows:
    """Which rows of the attention count, and n: `valid` (B, n) is None where there is no padding."""

    valid: Tensor | None
    count: int | Tensor

    @classmethod
    def of(cls, query: Tensor, mask: Tensor | None) -> "_Rows":
        """All rows of some texts."""
        if mask is None:
            return cls(None, query.shape[2])
        valid = _valid(mask).expand(query.shape[0], -1)
        return cls(valid, valid.sum(1)[:, None, None, None])

    def cut(self, tile: _Tile) -> "_Rows":
        """Those of a tile."""
        if self.valid is None or isinstance(self.count, int):
            return self
        return _Rows(self.valid[tile.texts, tile.rows], self.count[tile.texts])

    def received(self, weights: Tensor, log: bool) -> Tensor:
        """(b, c), the sum of attention weights (b, H, r, c) in the form asked for."""
        by_row = (torch.log1p(weights * self.count) if log else weights).sum(1)
        return by_row.sum(1) if self.valid is None else (self.valid[:, None].to(by_row.dtype) @ by_row)[:, 0]

    def spread(self, gradient: Tensor, weights: Tensor, log: bool) -> Tensor:
        """(b, H or 1, r or 1, c), the gradient at the weights, from that at the sum (b, c)."""
        spread = gradient[:, None, None]
        if log:
            spread = spread * (self.count / (1 + self.count * weights))
        return spread if self.valid is None else spread * self.valid[:, None, :, None]


def _scores_in_one_piece(query: Tensor, key: Tensor, bias: Tensor | None, rule: AttentionRule, log: bool) -> Tensor:
    whole = _Tile(slice(None), slice(None), slice(None))
    weights = _logits(query, _widened(key), bias, rule, whole).softmax(-1)
    return _Rows.of(query, rule.mask).received(weights, log)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _AnchorScores(torch.autograd.Function):
    """The sum over tiles, and its gradient, for which the tiles are computed once more.

    With g_j the gradient at score_j, i a valid query, and s the factor on the products,

        dL/dA_ij = g_j * n / (1 + n * A_ij)    (log form)    or    g_j    (linear form)
        dL/dlogits_ij = A_ij * (dL/dA_ij - sum over k of A_ik * dL/dA_ik)
        dL/dquery = s * dL/dlogits @ key,  dL/dkey = s * dL/dlogits^T @ query,  dL/dbias = dL/dlogits
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, bias: Tensor | None, rule: AttentionRule, log: bool) -> Tensor:
        """(B, n)."""
        ctx.save_for_backward(query, key, bias)
        ctx.rule, ctx.log = rule, log
        key, rows = _widened(key), _Rows.of(query, rule.mask)
        scores = key.new_zeros(query.shape[0], query.shape[2])
        for tile in _tiles(query, rule.causal):
            weights = _logits(query, key, bias, rule, tile).softmax(-1)
            scores[tile.texts, tile.columns] += rows.cut(tile).received(weights, log)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and bias."""
        with torch.autocast(gradient.device.type, enabled=False):
            return _AnchorScores._backward(ctx, gradient)

    @staticmethod
    def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, bias = ctx.saved_tensors
        rule, rows, wide = ctx.rule, _Rows.of(query, ctx.rule.mask), _widened(key)
        of_query, of_key = query.new_zeros(query.shape, dtype=wide.dtype), torch.zeros_like(wide)
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for tile in _tiles(query, rule.causal):
            logits = _logits(query, wide, bias, rule, tile)
            weights = logits.softmax(-1)
            of_weights = rows.cut(tile).spread(gradient[tile.texts, tile.columns], weights, ctx.log)
            of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True))
            if rule.softcap is not None:  # what is not seen has logits beyond the cap
                of_logits = of_logits * (1 - (logits.clamp_min(-rule.softcap) / rule.softcap) ** 2)
            if of_bias is not None:
                part = _cut(of_bias, tile)
                part += of_logits.sum_to_size(part.shape)
            folded, keys = _fold(query, wide, rule, tile)
            of_products = of_logits.reshape(*folded.shape[:-1], -1)
            of_query[tile.texts, :, tile.rows] = rule.scale * (of_products @ keys).reshape(*of_logits.shape[:3], -1)
            of_key[tile.texts, :, tile.columns] += of_products.transpose(-1, -2) @ folded
        return of_query.to(query.dtype), of_key.to(key.dtype), of_bias, None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, dropout: float) -> Tensor:
    """(B, n, H, d), the output of attention with a soft cap."""
    whole = _Tile(slice(None), slice(None), slice(None))
    weights = _logits(query, _widened(key), None, rule, whole).softmax(-1).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout)
    texts, heads, length, _ = weights.shape
    folded = weights.reshape(texts, value.shape[1], -1, length)
    return (folded @ value).reshape(texts, heads, length, -1).transpose(1, 2)


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
    """(B, n), the mean of the marked layers' scores.

    Args:
        attentions: what a marked model gave as its attentions: scores (B, n), or weights (B, H, n, n) if it is set
            to eager attention.
        places: where among them the chosen layers are, as `mark_anchor_layers` returned.
        mask: (B, n), 0 for padding.
        settings: those that the model was marked with.
    """
    if attentions and attentions[0].dim() == 4:
        chosen = [_scores_of_weights(attentions[layer], mask.bool(), settings) for layer in settings.layers]
    else:
        chosen = [attentions[place] for place in places]
    return chosen[0] if len(chosen) == 1 else torch.stack(chosen).mean(0)


def _scores_of_weights(weights: Tensor, valid: Tensor, settings: AnchorSettings) -> Tensor:
    weights = _widened(weights).masked_fill(~valid[:, None, :, None], 0.0)
    rows = _Rows(valid, valid.sum(1)[:, None, None, None])
    scores = rows.received(weights, settings.form == "log").masked_fill(~valid, 0.0)
    return scores / (weights > 0).any(1).sum(1).clamp_min(1) if settings.visibility_correction else scores


def _attention_modules(model: PreTrainedModel) -> list[Any]:
    """The modules that call the attention function, in order, once the model is set to it; none if it cannot be.

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
    """How many layers show their weights once the model is set to eager attention."""
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
    """Without dropout, until the block ends; then every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
