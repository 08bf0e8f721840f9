"""A cache for the output of the frozen layers, which is the same at every step.

With an adapter in the top 6 of 30 layers, a step then computes only 6 layers. The cache is a folder with two files:
states.npy (all tokens of all texts, D) in float32, and index.npz, which says which text each state belongs to and is
written last.

Letters: B texts, n tokens, D the size of a token's hidden state.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from multigrain.errors import RunError
from multigrain.files import atomic_file, full_disk_explained
from multigrain.model.anchor_attention import evaluating
from multigrain.terminal import meter
from multigrain.training.frozen_layers import frozen_depth, hidden_size, input_of, layers_of, starting_from

STATES, INDEX = "states.npy", "index.npz"
BATCH_TOKENS = 4096
TOLERANCE = 1e-3
"""Largest median of the relative error of the states, which differ a little between machines."""

Rows = list[tuple[int, ...]]
Index = dict[str, np.ndarray[Any, Any]]


class StoredStates(NamedTuple):
    """The two files of the cache: the texts with their lengths, and the states (all tokens, D) in the same order."""

    texts: Index
    states: np.ndarray[Any, Any]


class FrozenStates:
    """The output of the frozen layers on disk, for each text given to `compute`.

    Args:
        model: the model to train; its layers below `frozen_depth(model)` are skipped while the states are in use.
        folder: the folder that `compute` wrote.

    Raises:
        RunError: the states are missing, incomplete, or from another model.
    """

    def __init__(self, model: SentenceTransformer, folder: Path) -> None:
        stored = _open(folder)
        depth = frozen_depth(model)
        if stored is None or not depth or not _are_of(model, depth, stored):
            raise _of_another(folder, "it has no complete states of this model's frozen layers")
        index, self._states = stored
        self._folder, self._layers = folder, layers_of(model)[:depth]
        ends = np.cumsum(index["lengths"]).tolist()
        self._begins = {index["ids"][a:b].tobytes(): a for a, b in zip([0, *ends], ends, strict=False)}

    @staticmethod
    def fits(model: SentenceTransformer, token_rows: Iterable[Sequence[int]], limit: int) -> bool:
        """Return whether the states of these texts take at most `limit` bytes of disk."""
        tokens = accumulate(map(len, token_rows))
        return all(4 * count * hidden_size(model) <= limit for count in tokens)

    @staticmethod
    def compute(model: SentenceTransformer, token_rows: Iterable[Sequence[int]], folder: Path) -> None:
        """Write the states of each distinct text into the folder, unless they are all there.

        The states are in single precision even if training is not. The lower layers of a decoder give a few tokens such
        long states that half precision loses the others (gradient of SmolLM2 wrong by 11 % instead of 1 %).

        Args:
            model: the model to train.
            token_rows: the token ids of each text, with special tokens and prompt, without padding.
            folder: the output folder, which receives two files.

        Raises:
            RunError: the model has no frozen layers, or the disk is full.
        """
        if not (depth := frozen_depth(model)):
            raise RunError("the model has no frozen layers below the trained ones: train without a frozen cache.")
        rows = _distinct(token_rows)
        index = _index(rows, depth)
        stored = _open(folder)
        is_asked_for = stored and all(np.array_equal(stored.texts[name], index[name]) for name in index)
        if stored and is_asked_for and _are_of(model, depth, stored):
            return
        with full_disk_explained(folder):
            _write(model, rows, index, folder)

    def in_use(self, features: dict[str, Any]) -> AbstractContextManager[None]:
        """Within the block, start the model from the cached states of these texts; it must see no other texts.

        Args:
            features: `input_ids` and `attention_mask`, both (B, n), padded on either side.

        Raises:
            RunError: a text has no cached states.
        """
        return starting_from(self._layers, self._padded(features))

    def _padded(self, features: dict[str, Any]) -> Tensor:
        """Return the states of the texts, (B, n, D), 0 for padding."""
        tokens = features["input_ids"].cpu().numpy()
        mask = features["attention_mask"].cpu().numpy()
        padded = np.zeros((*tokens.shape, self._states.shape[1]), np.float32)
        for states, ids, valid in zip(padded, tokens, mask.astype(bool), strict=True):
            states[valid] = self._of(ids[valid])
        return torch.from_numpy(padded)

    def _of(self, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if not len(ids):
            return self._states[:0]
        begin = self._begins.get(ids.astype(np.int32).tobytes())
        if begin is None:
            raise _of_another(self._folder, f"it has no states of the text with the token ids {ids[:8].tolist()}...")
        return self._states[begin : begin + len(ids)]


def _of_another(folder: Path, found: str) -> RunError:
    return RunError(f"{folder}: {found}: it is from another training. Remove it, then run the same command again.")


def _distinct(token_rows: Iterable[Sequence[int]]) -> Rows:
    """Return each distinct text once, shortest first; states are computed and stored in this order."""
    rows = {tuple(map(int, row)) for row in token_rows if len(row)}
    return sorted(rows, key=lambda row: (len(row), row))


def _batches(rows: Rows) -> Iterator[Rows]:
    """Yield batches of texts of the same length, because padding would change the last bits."""
    for length, group in groupby(rows, len):
        alike = list(group)
        size = max(1, BATCH_TOKENS // length)
        for begin in range(0, len(alike), size):
            yield alike[begin : begin + size]


def _computed(model: SentenceTransformer, depth: int, rows: Rows) -> np.ndarray[Any, Any]:
    """Compute the states of texts of the same length, (all tokens, D)."""
    tokens = torch.tensor(rows, device=model.device)
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    with torch.no_grad(), evaluating(model):
        states = input_of(layers_of(model)[depth], model, features)
    assert states is not None
    return np.asarray(states.float().flatten(0, 1).cpu().numpy(), "<f4")


def _index(rows: Rows, depth: int) -> Index:
    ids = np.fromiter((token for row in rows for token in row), np.int32)
    return {"ids": ids, "lengths": np.array(list(map(len, rows))), "depth": np.array(depth)}


def _write(model: SentenceTransformer, rows: Rows, index: Index, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (INDEX, STATES):  # the index first: without it, the cache counts as absent
        (folder / name).unlink(missing_ok=True)
    shape = (len(index["ids"]), hidden_size(model))
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    # Not memory-mapped: writing to a mapped page on a full disk kills the process without an error.
    with (folder / STATES).open("wb") as file, meter("frozen layers", len(rows)) as progress:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in _batches(rows):
            file.write(_computed(model, int(index["depth"]), batch).tobytes())
            progress.advance(len(batch))
        file.flush()
        os.fsync(file.fileno())
    with atomic_file(folder / INDEX) as file:
        np.savez(file, **index)  # type: ignore[arg-type]  # the stub takes the arrays for an option


def _open(folder: Path) -> StoredStates | None:
    """Open the files that `compute` wrote; return None if they are missing or incomplete."""
    try:
        with np.load(folder / INDEX) as file:
            index = {name: file[name] for name in ("ids", "lengths", "depth")}
        states = np.load(folder / STATES, mmap_mode="r")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return StoredStates(index, states) if len(index["ids"]) == len(states) else None


def _are_of(model: SentenceTransformer, depth: int, stored: StoredStates) -> bool:
    """Return whether the states come from this model's frozen layers; the longest text is computed again to check."""
    index, states = stored
    if depth != index["depth"] or states.shape[1] != hidden_size(model):
        return False
    length = int(index["lengths"][-1])
    again = _computed(model, depth, [tuple(index["ids"][-length:].tolist())])
    wrong = np.linalg.norm(again - states[-length:], axis=1) / np.linalg.norm(again, axis=1)
    return bool(np.median(wrong) <= TOLERANCE)
