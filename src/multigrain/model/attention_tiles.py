"""Compute the attention of one layer from its queries and keys, one tile at a time.

A tile covers some texts, some of their queries, and the keys that these can see. Going through the tiles takes only a
few megabytes of attention weights at a time, whatever the length of the texts.

Letters: B texts, H heads, K heads of keys (K divides H), n tokens, d dimensions of a head; in a tile, b texts, r rows
(queries) and c columns (keys).

This file is part of every saved model, so it may import nothing but torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

CPU_TILE_BYTES = 2 * 2**20
"""Size of a tile of attention weights in memory; it fits into the cache of a core."""
ACCELERATOR_TILE_BYTES = 128 * 2**20
"""The same on an accelerator, where launching many small kernels costs more than memory."""

UNSEEN = -9e3
"""An additive mask is at most this where attention is blocked: minus infinity, the type's minimum, -1e9 or -1e4."""


@dataclass(frozen=True)
class AttentionRule:
    """The rule that turns dot products of queries and keys into attention.

    Args:
        scale: factor on the dot products.
        mask: None, or (B or 1, 1, n, n), boolean (True: attend) or additive. Its diagonal shows which tokens are
            valid: a token always sees itself, unless it is padding.
        causal: without a mask, token i sees only tokens up to i.
        softcap: if given, logits become softcap * tanh(logits / softcap).
    """

    scale: float
    mask: Tensor | None = None
    causal: bool = False
    softcap: float | None = None


@dataclass(frozen=True)
class Tile:
    """A part of the attention: some texts, some of their queries (rows), and the first keys, up to the last visible."""

    texts: slice
    rows: slice
    columns: slice


WHOLE = Tile(slice(None), slice(None), slice(None))
"""The tile that covers the whole attention."""


def tiles(query: Tensor, causal: bool) -> Iterator[Tile]:
    """Split the attention into tiles: several whole texts if they fit into one, else some rows of one text.

    Args:
        query: (B, H, n, d).
        causal: whether token i sees only tokens up to i; keys after a tile's last row are then left out.
    """
    texts, heads, length, _ = query.shape
    row_bytes = 4 * heads * length
    size = CPU_TILE_BYTES if query.device.type == "cpu" else ACCELERATOR_TILE_BYTES
    rows = min(length, max(1, size // row_bytes))
    together = max(1, size // (row_bytes * length))
    for text in range(0, texts, together):
        for row in range(0, length, rows):
            end = min(row + rows, length)
            yield Tile(slice(text, text + together), slice(row, end), slice(0, end if causal else length))


def tile_logits(query: Tensor, key: Tensor, bias: Tensor | None, rule: AttentionRule, tile: Tile) -> Tensor:
    """Compute the attention logits of a tile, the input of the softmax.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        bias: (B or 1, H or 1, n, n), added to the logits.
        rule: the attention rule; its mask is boolean.
        tile: the part to compute.

    Returns:
        (b, H, r, c), in the type of `key`.
    """
    folded, keys = fold(query, key, rule, tile)
    texts, rows = query[tile.texts, 0, tile.rows, 0].shape
    logits = (folded @ keys.transpose(-1, -2)).reshape(texts, query.shape[1], rows, -1)
    if bias is not None:
        logits = logits + cut(bias, tile)
    if rule.softcap is not None:
        logits = rule.softcap * torch.tanh(logits / rule.softcap)
    # A padding row may see nothing. A finite value keeps its softmax finite; padding rows are not counted.
    unseen = torch.finfo(logits.dtype).min
    if rule.mask is not None:
        logits = logits.masked_fill(~cut(rule.mask, tile), unseen)
    elif rule.causal:
        corner = logits[..., tile.rows.start or 0 :]
        corner.masked_fill_(torch.ones_like(corner[0, 0], dtype=torch.bool).triu(1), unseen)
    return logits


class Folded(NamedTuple):
    """The scaled queries (b, K, H/K * r, d) and the keys (b, K, c, d) of a tile."""

    queries: Tensor
    keys: Tensor


def fold(query: Tensor, key: Tensor, rule: AttentionRule, tile: Tile) -> Folded:
    """Stack the query heads that share a key head, in the type of `key`.

    These heads are adjacent, so they become additional rows of their key head.
    """
    part, keys = query[tile.texts, :, tile.rows], key[tile.texts, :, tile.columns]
    scaled = part.to(keys.dtype) * rule.scale
    return Folded(scaled.reshape(part.shape[0], keys.shape[1], -1, part.shape[-1]), keys)


def cut(full: Tensor, tile: Tile) -> Tensor:
    """Return a tile's part of a mask or bias (B or 1, H or 1, n, n), which all texts may share."""
    return full[tile.texts if full.shape[0] > 1 else slice(None), :, tile.rows, tile.columns]


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or in its own type if that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def valid_tokens(mask: Tensor) -> Tensor:
    """Return the diagonal (B or 1, n) of a boolean mask: True for tokens other than padding."""
    return torch.diagonal(mask, dim1=-2, dim2=-1)[:, 0]


def seen_by_all(mask: Tensor | None) -> Tensor | None:
    """Return a mask with the same padding in which every token sees all valid tokens."""
    if mask is None:
        return None
    valid = valid_tokens(mask if mask.dtype == torch.bool else mask > UNSEEN)
    return valid[:, None, None].expand(-1, -1, mask.shape[-2], -1)


def attend(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, dropout: float) -> Tensor:
    """Compute the output of attention in one piece; unlike SDPA, this supports a soft cap.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        value: (B, K, n, d).
        rule: the attention rule.
        dropout: share of attention weights set to 0.

    Returns:
        (B, n, H, d).
    """
    weights = tile_logits(query, widened(key), None, rule, WHOLE).softmax(-1).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout)
    texts, heads, length, _ = weights.shape
    folded = weights.reshape(texts, value.shape[1], -1, length)
    return (folded @ value).reshape(texts, heads, length, -1).transpose(1, 2)
