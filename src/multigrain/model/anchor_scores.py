"""Compute anchor scores, which measure how much attention each token of a text receives, and their gradient.

For the attention A[h, i, j] of a layer (head h, query i, key j; each row sums to 1 over j) and n valid tokens, the
anchor score of token j is

    log form     score_j = sum over h, i of log(1 + n * A[h, i, j])
    linear form  score_j = sum over h, i of A[h, i, j]

with i over valid tokens only (*Negative Matters*, ACL 2025; as far as is known, the paper uses the log form). The log
damps attention sinks: a token that receives all attention weighs log2(1 + n) times as much as one that receives an even
share, not n times.

A is computed one tile at a time (`attention_tiles`), and again in the backward pass, so nothing of the size of A is
kept. In compiled or exported models, it is computed in one piece.

Letters: B texts, H heads, K heads of keys (K divides H), n tokens, d dimensions of a head; in a tile, b texts, r rows
(queries) and c columns (keys).

This file is part of every saved model, beside `attention_tiles.py`, so it may import nothing but torch and that file.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .attention_tiles import UNSEEN, WHOLE, AttentionRule, Tile, cut, fold, tile_logits, tiles, valid_tokens, widened

Form = Literal["log", "linear"]


@dataclass(frozen=True)
class AnchorSettings:
    """The settings of `multigrain.model.pooling.AnchorPooling` that affect scores.

    Args:
        form: "log" or "linear", as above.
        layers: indices of the attention layers to use, as in a list (-1 is the last).
        visibility_correction: divide each score by the number of tokens that see the token.
    """

    form: Form = "log"
    layers: tuple[int, ...] = (-1,)
    visibility_correction: bool = False


def anchor_scores(
    query: Tensor,
    key: Tensor,
    rule: AttentionRule,
    settings: AnchorSettings = AnchorSettings(),
    bias: Tensor | None = None,
) -> Tensor:
    """Sum the attention that each token receives, over heads and valid queries.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        rule: the attention rule.
        settings: the settings; only `form` and `visibility_correction` are used.
        bias: (B or 1, H or 1, n, n), added to the logits.

    Returns:
        (B, n), in float32 or wider; 0 for padding. Differentiable in query, key and bias.
    """
    if rule.mask is not None and rule.mask.dtype != torch.bool:
        bias = rule.mask if bias is None else bias + rule.mask
        rule = replace(rule, mask=rule.mask > UNSEEN)
    log = settings.form == "log"
    with torch.autocast(query.device.type, enabled=False):  # it would use half precision
        # A compiler or exporter would unroll the loop over tiles, for one text length.
        score = _scores_in_one_piece if torch.compiler.is_compiling() else _AnchorScores.apply
        scores: Tensor = score(query, key, bias, rule, log)
    return scores / _seen_by(rule, scores) if settings.visibility_correction else scores


def scores_of_weights(weights: Tensor, valid: Tensor, settings: AnchorSettings) -> Tensor:
    """Compute the scores (B, n) from the weights (B, H, n, n) that eager attention returns.

    Args:
        weights: the attention A.
        valid: (B, n), False for padding.
        settings: the settings; only `form` and `visibility_correction` are used.
    """
    weights = widened(weights).masked_fill(~valid[:, None, :, None], 0.0)
    rows = _Rows(valid, valid.sum(1)[:, None, None, None])
    scores = rows.received(weights, settings.form == "log").masked_fill(~valid, 0.0)
    return scores / (weights > 0).any(1).sum(1).clamp_min(1) if settings.visibility_correction else scores


def _seen_by(rule: AttentionRule, scores: Tensor) -> Tensor:
    """Count the valid tokens that see each token, (B or 1, n); 1 for padding, which no token sees."""
    if rule.mask is None:
        length = scores.shape[1]
        numbers = torch.arange(length, 0, -1, device=scores.device)
        return (numbers if rule.causal else torch.full_like(numbers, length))[None]
    return (rule.mask & valid_tokens(rule.mask)[:, None, :, None]).sum(-2)[:, 0].clamp_min(1)


@dataclass(frozen=True)
class _Rows:
    """The rows of the attention that count.

    Args:
        valid: (B, n), False for padding; None without padding.
        count: n, the number of valid tokens: (B, 1, 1, 1), or one number for all texts.
    """

    valid: Tensor | None
    count: int | Tensor

    @classmethod
    def of(cls, query: Tensor, mask: Tensor | None) -> "_Rows":
        """Return all rows of some texts."""
        if mask is None:
            return cls(None, query.shape[2])
        valid = valid_tokens(mask).expand(query.shape[0], -1)
        return cls(valid, valid.sum(1)[:, None, None, None])

    def cut(self, tile: Tile) -> "_Rows":
        """Return the rows of a tile."""
        if self.valid is None or isinstance(self.count, int):
            return self
        return _Rows(self.valid[tile.texts, tile.rows], self.count[tile.texts])

    def received(self, weights: Tensor, log: bool) -> Tensor:
        """Sum attention weights (b, H, r, c) over heads and rows, in log or linear form: (b, c)."""
        by_row = (torch.log1p(weights * self.count) if log else weights).sum(1)
        return by_row.sum(1) if self.valid is None else (self.valid[:, None].to(by_row.dtype) @ by_row)[:, 0]

    def spread(self, gradient: Tensor, weights: Tensor, log: bool) -> Tensor:
        """Return the gradient of the weights, (b, H or 1, r or 1, c), from the gradient of the sum, (b, c)."""
        spread = gradient[:, None, None]
        if log:
            spread = spread * (self.count / (1 + self.count * weights))
        return spread if self.valid is None else spread * self.valid[:, None, :, None]


def _scores_in_one_piece(query: Tensor, key: Tensor, bias: Tensor | None, rule: AttentionRule, log: bool) -> Tensor:
    weights = tile_logits(query, widened(key), bias, rule, WHOLE).softmax(-1)
    return _Rows.of(query, rule.mask).received(weights, log)


class _AnchorScores(torch.autograd.Function):
    """The sum over tiles and its gradient, which computes the tiles again.

    With g_j the gradient at score_j, i a valid query, and s the factor on the products,

        dL/dA_ij = g_j * n / (1 + n * A_ij)    (log form)    or    g_j    (linear form)
        dL/dlogits_ij = A_ij * (dL/dA_ij - sum over k of A_ik * dL/dA_ik)
        dL/dquery = s * dL/dlogits @ key,  dL/dkey = s * dL/dlogits^T @ query,  dL/dbias = dL/dlogits
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, bias: Tensor | None, rule: AttentionRule, log: bool) -> Tensor:
        """Return the scores (B, n), summed over tiles."""
        ctx.save_for_backward(query, key, bias)
        ctx.rule, ctx.log = rule, log
        key, rows = widened(key), _Rows.of(query, rule.mask)
        scores = key.new_zeros(query.shape[0], query.shape[2])
        for tile in tiles(query, rule.causal):
            weights = tile_logits(query, key, bias, rule, tile).softmax(-1)
            scores[tile.texts, tile.columns] += rows.cut(tile).received(weights, log)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and bias from the gradient of the scores (B, n)."""
        with torch.autocast(gradient.device.type, enabled=False):
            return _AnchorScores._backward(ctx, gradient)

    @staticmethod
    def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, bias = ctx.saved_tensors
        rule, rows, wide = ctx.rule, _Rows.of(query, ctx.rule.mask), widened(key)
        of_query, of_key = query.new_zeros(query.shape, dtype=wide.dtype), torch.zeros_like(wide)
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for tile in tiles(query, rule.causal):
            logits = tile_logits(query, wide, bias, rule, tile)
            weights = logits.softmax(-1)
            of_weights = rows.cut(tile).spread(gradient[tile.texts, tile.columns], weights, ctx.log)
            of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True))
            if rule.softcap is not None:  # unseen keys have logits beyond the cap
                of_logits = of_logits * (1 - (logits.clamp_min(-rule.softcap) / rule.softcap) ** 2)
            if of_bias is not None:
                part = cut(of_bias, tile)
                part += of_logits.sum_to_size(part.shape)
            folded, keys = fold(query, wide, rule, tile)
            of_products = of_logits.reshape(*folded.shape[:-1], -1)
            of_query[tile.texts, :, tile.rows] = rule.scale * (of_products @ keys).reshape(*of_logits.shape[:3], -1)
            of_key[tile.texts, :, tile.columns] += of_products.transpose(-1, -2) @ folded
        return of_query.to(query.dtype), of_key.to(key.dtype), of_bias, None, None
