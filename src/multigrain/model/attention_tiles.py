"""The attention of one layer from its queries and keys, a tile of it at a time.

A tile is some texts, some of their queries, and the keys that these may see. Whoever goes through the tiles holds a few
megabytes of attention weights at once, whatever the length of the texts.

Letters: B texts, H heads, K heads of keys (K divides H), n tokens, d dimensions of a head; of a tile, b texts, r rows
(queries) and c columns (keys).

This file is shipped inside every saved model: it may import nothing but torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

CPU_TILE_BYTES = 2 * 2**20
"""Size of the tile of attention weights that is in memory at once: what fits into a core's cache."""
ACCELERATOR_TILE_BYTES = 128 * 2**20
"""The same on an accelerator, where launching many small kernels costs more than memory does."""

UNSEEN = -9e3
"""An additive mask puts this or less where nothing is seen: minus infinity, the type's least number, -1e9 or -1e4."""


@dataclass(frozen=True)
class AttentionRule:
    """The rule by which the products of queries and keys become attention.

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


@dataclass(frozen=True)
class Tile:
    """A part of the attention: some texts, some of their queries (rows), and the first keys, which they may see."""

    texts: slice
    rows: slice
    columns: slice


WHOLE = Tile(slice(None), slice(None), slice(None))
"""The tile that is all of the attention."""


def tiles(query: Tensor, causal: bool) -> Iterator[Tile]:
    """Cut the attention into tiles: several whole texts where they fit into one, else some rows of one text.

    Args:
        query: (B, H, n, d).
        causal: whether token i sees tokens up to i only, so that the keys after a tile's last row are left out.
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
    """Compute what the softmax is taken of.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        bias: (B or 1, H or 1, n, n), added to the logits.
        rule: how these become attention; its mask is boolean.
        tile: the part that is computed.

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
    # A padding row may see nothing at all. Its softmax is a number, because this is one; it is not counted.
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
    """Lay the heads that share a key below each other, in the type of `key`.

    Heads that share a key follow one another: to that key they are more rows.
    """
    part, keys = query[tile.texts, :, tile.rows], key[tile.texts, :, tile.columns]
    scaled = part.to(keys.dtype) * rule.scale
    return Folded(scaled.reshape(part.shape[0], keys.shape[1], -1, part.shape[-1]), keys)


def cut(full: Tensor, tile: Tile) -> Tensor:
    """Cut a tile's part out of a mask or bias (B or 1, H or 1, n, n), which may be the same for all texts."""
    return full[tile.texts if full.shape[0] > 1 else slice(None), :, tile.rows, tile.columns]


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or in its own type where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def valid_tokens(mask: Tensor) -> Tensor:
    """Return the diagonal (B or 1, n) of a boolean mask: True for whatever is not padding."""
    return torch.diagonal(mask, dim1=-2, dim2=-1)[:, 0]


def seen_by_all(mask: Tensor | None) -> Tensor | None:
    """Return the mask in whose place every token sees all that is not padding."""
    if mask is None:
        return None
    valid = valid_tokens(mask if mask.dtype == torch.bool else mask > UNSEEN)
    return valid[:, None, None].expand(-1, -1, mask.shape[-2], -1)


def attend(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, dropout: float) -> Tensor:
    """Compute the output of attention in one piece, also with a soft cap, which SDPA has none of.

    Args:
        query: (B, H, n, d).
        key: (B, K, n, d).
        value: (B, K, n, d).
        rule: how these become attention.
        dropout: share of the attention weights that are set to 0.

    Returns:
        (B, n, H, d).
    """
    weights = tile_logits(query, widened(key), None, rule, WHOLE).softmax(-1).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout)
    texts, heads, length, _ = weights.shape
    folded = weights.reshape(texts, value.shape[1], -1, length)
    return (folded @ value).reshape(texts, heads, length, -1).transpose(1, 2)
