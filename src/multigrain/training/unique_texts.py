"""The distinct texts of a batch, each encoded once, together with texts of similar length.

sentence-transformers tokenizes a batch column by column and pads each column to its longest text. This module splits
the columns again. A text that occurs several times (such as a positive that is also a negative of another query)
becomes one row. Rows are sorted by length, so consecutive rows need almost no padding.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multigrain.model.prompted_batches import PROMPT_LENGTH, has_prompt_lengths

Features = dict[str, Any]
"""The tokenized input of a module: `input_ids` and `attention_mask` (rows, tokens), and more."""
Place = tuple[int, int]
"""Column and row of a text in the batch."""


@dataclass(frozen=True)
class Texts:
    """The distinct texts of a batch."""

    groups: list[Features]
    """Rows in falling order of length. One group, unless some columns have other features (prompts)."""
    places: Tensor
    """(columns, rows of a column): the row of each text of the batch, counted over all groups."""
    identities: Tensor
    """(distinct texts,) int64: a number for each text, equal only for equal texts."""
    tokens: int
    """Number of tokens in the distinct texts."""


def distinct(columns: Sequence[Features], padding_side: str = "right", pad_token: int = 0) -> Texts:
    """Return the distinct texts of a batch, and which of them stands at each place of its columns.

    Args:
        columns: the tokenized columns that sentence-transformers passes to a loss.
        padding_side: the side on which the rows of `groups` are padded.
        pad_token: the token id of the padding.
    """
    device = columns[0]["input_ids"].device
    columns = [_moved(column, "cpu") for column in columns]  # one transfer, not one per row
    kinds: dict[str, list[Place]] = {}
    for index, column in enumerate(columns):
        kinds.setdefault(_kind(column), []).extend((index, row) for row in range(len(column["input_ids"])))
    groups, identities = [], list[int]()
    places = torch.empty(len(columns), len(columns[0]["input_ids"]), dtype=torch.long)
    tokens = 0
    for members in kinds.values():
        rows, at = _rows(columns, members)
        order = sorted(range(len(rows)), key=lambda row: (-len(rows[row].ids), row))
        rank = {row: len(identities) + new for new, row in enumerate(order)}
        columns_of, rows_of = torch.tensor(members).T
        places[columns_of, rows_of] = torch.tensor([rank[row] for row in at])
        ordered = [rows[row] for row in order]
        groups.append(_moved(_padded(ordered, padding_side, pad_token), device))
        identities += [_identity(row.ids) for row in ordered]
        tokens += sum(len(row.ids) for row in ordered)
    return Texts(groups, places.to(device), torch.tensor(identities, device=device), tokens)


@dataclass(frozen=True)
class _Row:
    """A text: its token ids, and where to find the other features of each token."""

    ids: tuple[int, ...]
    column: Features
    row: int
    valid: Tensor


def _moved(features: Features, device: str | torch.device) -> Features:
    return {key: value.to(device) if torch.is_tensor(value) else value for key, value in features.items()}


def _kind(column: Features) -> str:
    """Return a key of the features that texts encoded together must share, such as one length of their prompt."""
    rows, width = column["input_ids"].shape
    others = {
        key: value.tolist() if torch.is_tensor(value) else value
        for key, value in column.items()
        if not (torch.is_tensor(value) and value.shape[:2] == (rows, width))
    }
    if has_prompt_lengths(column):
        others[PROMPT_LENGTH] = "of each row"
    return repr(sorted(others.items(), key=lambda item: item[0]))


def _prompt_length(column: Features, row: int) -> int | None:
    """Return the length of a row's own prompt; None if all rows have the same."""
    return int(column[PROMPT_LENGTH][row]) if has_prompt_lengths(column) else None


def _rows(columns: Sequence[Features], places: Sequence[Place]) -> tuple[list[_Row], list[int]]:
    """Return the distinct texts at these places, and for each place the index of its text."""
    known: dict[tuple[tuple[int, ...], int | None], int] = {}
    rows: list[_Row] = []
    at = []
    for index, row in places:
        column = columns[index]
        valid = column["attention_mask"][row].bool()
        ids = tuple(column["input_ids"][row][valid].tolist())
        key = ids, _prompt_length(column, row)
        if key not in known:
            known[key] = len(rows)
            rows.append(_Row(ids, column, row, valid))
        at.append(known[key])
    return rows, at


def _padded(rows: Sequence[_Row], padding_side: str, pad_token: int) -> Features:
    """Return the rows as features, padded to the longest row."""
    like = rows[0].column
    shape = like["input_ids"].shape
    longest = len(rows[0].ids)
    padded: Features = {}
    for key, value in like.items():
        if not (torch.is_tensor(value) and value.shape[:2] == shape):
            padded[key] = value
            continue
        fill = pad_token if key == "input_ids" else 0
        whole = value.new_full((len(rows), longest), fill)
        for index, row in enumerate(rows):
            length = len(row.ids)
            span = slice(longest - length, longest) if padding_side == "left" else slice(length)
            whole[index, span] = row.column[key][row.row][row.valid]
        padded[key] = whole
    if has_prompt_lengths(like):
        padded[PROMPT_LENGTH] = torch.tensor([_prompt_length(row.column, row.row) for row in rows])
    return padded


def _identity(ids: tuple[int, ...]) -> int:
    digest = hashlib.blake2b(repr(ids).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def cut(features: Features, begin: int, end: int, padding_side: str = "right") -> Features:
    """Return the rows `begin` to `end` of a group, without the padding common to all of them."""
    mask = features["attention_mask"]
    shape = mask.shape
    length = int(mask[begin:end].sum(dim=1).max())
    span = slice(shape[1] - length, shape[1]) if padding_side == "left" else slice(length)
    part = {
        key: value[begin:end, span] if torch.is_tensor(value) and value.shape[:2] == shape else value
        for key, value in features.items()
    }
    if has_prompt_lengths(features):
        part[PROMPT_LENGTH] = features[PROMPT_LENGTH][begin:end]
    return part
