"""The layers below those that are trained give the same for a text at each step: compute them once, and keep it.

With an adapter in the top 6 of 30 layers, a step then computes 6 layers. What the lower ones give lies in a folder:
states.npy (all tokens of all texts, D) in float32, and index.npz, which tells whose they are and is written last.

Letters: B texts, n tokens, D the size of a token's hidden state.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from multigrain.errors import RunError
from multigrain.files import atomic_file, full_disk_explained
from multigrain.model.anchor_attention import evaluating
from multigrain.progress import meter

STATES, INDEX = "states.npy", "index.npz"
BATCH_TOKENS = 4096
TOLERANCE = 1e-3
"""How far, for its length, half of the states may be from what they are on another machine."""
_UNLIKE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)
"""What a model may raise whose layers give each other more than a tensor."""

Rows = list[tuple[int, ...]]
Index = dict[str, np.ndarray[Any, Any]]


def frozen_depth(model: SentenceTransformer) -> int:
    """How many of the lowest layers can be left out: below, nothing is trained, dropped out or looked at by a pooling.

    0 where there is nothing to gain, and for the few architectures whose layers give each other more than one tensor.
    Dropout counts in whatever mode the model is, because training will put it in force.
    """
    layers = _layers(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    if not layers or any(_drops(module) for module in model[0].modules() if id(module) not in inside):
        return 0
    depth = next((i for i, layer in enumerate(layers) if _is_moving(layer)), len(layers) - 1)
    return depth if depth and _is_enough(model, layers, depth) else 0


class FrozenStates:
    """What the frozen layers give for each text that `compute` was given.

    Args:
        model: what is trained; the layers below `frozen_depth(model)` are left out while the states are in use.
        folder: what `compute` wrote.

    Raises:
        RunError: the folder holds no states, not all, or those of another model.
    """

    def __init__(self, model: SentenceTransformer, folder: Path) -> None:
        stored = _open(folder)
        depth = frozen_depth(model)
        if stored is None or not depth or not _are_of(model, depth, *stored):
            raise _of_another(folder, "there are no whole states of this model's frozen layers")
        index, self._states = stored
        self._folder, self._layers = folder, _layers(model)[:depth]
        ends = np.cumsum(index["lengths"]).tolist()
        self._begins = {index["ids"][a:b].tobytes(): a for a, b in zip([0, *ends], ends, strict=False)}

    @staticmethod
    def fits(model: SentenceTransformer, token_rows: Iterable[Sequence[int]], limit: int) -> bool:
        """Whether what `compute` writes for these texts takes at most so many bytes of disk."""
        tokens = accumulate(map(len, token_rows))
        return all(4 * count * _width(model) <= limit for count in tokens)

    @staticmethod
    def compute(model: SentenceTransformer, token_rows: Iterable[Sequence[int]], folder: Path) -> None:
        """Write the states of each distinct text into the folder, unless they are all there.

        In single precision, also where training is in half: the lower layers of a decoder give a few tokens states so
        long that half precision loses the others (gradient of SmolLM2 wrong by 11 % instead of 1 %).

        Args:
            model: what will be trained.
            token_rows: the token ids of each text, special tokens and prompt included, padding left out.
            folder: receives two files.

        Raises:
            RunError: the model has no frozen layers, or the disk is full.
        """
        if not (depth := frozen_depth(model)):
            raise RunError("the model has no frozen layers below those that are trained: train without their states.")
        rows = _distinct(token_rows)
        index = _index(rows, depth)
        stored = _open(folder)
        is_asked_for = stored and all(np.array_equal(stored[0][name], index[name]) for name in index)
        if stored and is_asked_for and _are_of(model, depth, *stored):
            return
        with full_disk_explained(folder):
            _write(model, rows, index, folder)

    def in_use(self, features: dict[str, Any]) -> AbstractContextManager[None]:
        """Inside, the model starts from the states of these texts; it must be given no others.

        Args:
            features: `input_ids` and `attention_mask`, both (B, n), padded on either side.

        Raises:
            RunError: there are no states of one of the texts.
        """
        return _starting_from(self._layers, self._padded(features))

    def _padded(self, features: dict[str, Any]) -> Tensor:
        """(B, n, D), 0 for padding."""
        tokens, mask = (features[name].cpu().numpy() for name in ("input_ids", "attention_mask"))
        padded = np.zeros((*tokens.shape, self._states.shape[1]), np.float32)
        for states, ids, valid in zip(padded, tokens, mask.astype(bool), strict=True):
            states[valid] = self._of(ids[valid])
        return torch.from_numpy(padded)

    def _of(self, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if not len(ids):
            return self._states[:0]
        begin = self._begins.get(ids.astype(np.int32).tobytes())
        if begin is None:
            raise _of_another(self._folder, f"there are no states of the text with the token ids {ids[:8].tolist()}...")
        return self._states[begin : begin + len(ids)]


def _of_another(folder: Path, found: str) -> RunError:
    return RunError(f"{folder}: {found}: it is of another training. Remove it, then give the same command again.")


def _layers(model: SentenceTransformer) -> list[Any]:
    """From the embeddings up; none if the architecture has no list of them."""
    backbone: Any = model.transformers_model
    count = getattr(backbone.config.get_text_config(), "num_hidden_layers", 0)
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(lists, ()))


def _width(model: SentenceTransformer) -> int:
    transformer: Any = model[0]
    return int(transformer.get_embedding_dimension())


def _is_moving(layer: nn.Module) -> bool:
    """Whether a step needs the layer, for what it gives or for its attention."""
    modules = list(layer.modules())
    looked_at = any(getattr(module, "anchor", None) is not None for module in modules)
    return looked_at or any(map(_drops, modules)) or any(weight.requires_grad for weight in layer.parameters())


def _drops(module: nn.Module) -> bool:
    """Many attention layers have no module for dropout, only its rate."""
    rates = [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
    return any(rates) or (isinstance(module, nn.Dropout) and module.p > 0)


def _is_enough(model: SentenceTransformer, layers: list[Any], depth: int) -> bool:
    """Whether nothing before the layer is trained, and the model gives the same from this layer's input alone.

    It is tried on a text, because not every architecture shows what its layers share (biases of positions, keys).
    """
    tokens = torch.tensor([[5, 6, 7]], device=model.device)
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    with torch.enable_grad(), evaluating(model):
        states = _input_of(layers[depth], model, features)
        if states is None or states.requires_grad:
            return False
        whole = model[0](dict(features))
        try:
            with _starting_from(layers[:depth], states):
                rest = model[0](dict(features))
        except _UNLIKE:
            return False
    return all(torch.allclose(whole[name], rest[name]) for name in whole if isinstance(whole[name], Tensor))


class _Reached(Exception):
    """The forward pass has come to the layer; what is above is of no use."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


def _input_of(layer: nn.Module, model: SentenceTransformer, features: dict[str, Tensor]) -> Tensor | None:
    """(B, n, D); None if the layer is not called."""

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
def _starting_from(layers: list[Any], states: Tensor) -> Iterator[None]:
    """Inside, the last of the layers gives the states, and none computes anything.

    An attribute of the object goes before its class's method, which also is where gradient checkpointing hangs; no
    name in the model's state changes.
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
            if forward is not None:  # another library's
                layer.forward = forward


def _distinct(token_rows: Iterable[Sequence[int]]) -> Rows:
    """In the order in which they are computed and kept."""
    rows = {tuple(map(int, row)) for row in token_rows if len(row)}
    return sorted(rows, key=lambda row: (len(row), row))


def _batches(rows: Rows) -> Iterator[Rows]:
    """Texts of the same length, so that there is no padding to change the last bits."""
    for length, group in groupby(rows, len):
        alike, size = list(group), max(1, BATCH_TOKENS // length)
        yield from (alike[begin : begin + size] for begin in range(0, len(alike), size))


def _computed(model: SentenceTransformer, depth: int, rows: Rows) -> np.ndarray[Any, Any]:
    """(all tokens, D) for texts of the same length."""
    tokens = torch.tensor(rows, device=model.device)
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    with torch.no_grad(), evaluating(model):
        states = _input_of(_layers(model)[depth], model, features)
    assert states is not None
    return np.asarray(states.float().flatten(0, 1).cpu().numpy(), "<f4")


def _index(rows: Rows, depth: int) -> Index:
    ids = np.fromiter((token for row in rows for token in row), np.int32)
    return {"ids": ids, "lengths": np.array(list(map(len, rows))), "depth": np.array(depth)}


def _write(model: SentenceTransformer, rows: Rows, index: Index, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (INDEX, STATES):  # the index first: what is there is no longer whole
        (folder / name).unlink(missing_ok=True)
    shape = (len(index["ids"]), _width(model))
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    # Written, not mapped: a full disk would end the process at a mapped page, without an error.
    with (folder / STATES).open("wb") as file, meter("frozen layers", len(rows)) as progress:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in _batches(rows):
            file.write(_computed(model, int(index["depth"]), batch).tobytes())
            progress.advance(len(batch))
        file.flush()
        os.fsync(file.fileno())
    with atomic_file(folder / INDEX) as file:
        np.savez(file, **index)  # type: ignore[arg-type]  # the stub takes them for an option


def _open(folder: Path) -> tuple[Index, np.ndarray[Any, Any]] | None:
    """What `compute` wrote, or None if it is not whole."""
    try:
        with np.load(folder / INDEX) as file:
            index = {name: file[name] for name in ("ids", "lengths", "depth")}
        states = np.load(folder / STATES, mmap_mode="r")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return (index, states) if len(index["ids"]) == len(states) else None


def _are_of(model: SentenceTransformer, depth: int, index: Index, states: np.ndarray[Any, Any]) -> bool:
    """Whether the model has the same frozen layers, and attention: those of the longest text are computed again."""
    if depth != index["depth"] or states.shape[1] != _width(model):
        return False
    length = int(index["lengths"][-1])
    again = _computed(model, depth, [tuple(index["ids"][-length:].tolist())])
    wrong = np.linalg.norm(again - states[-length:], axis=1) / np.linalg.norm(again, axis=1)
    return bool(np.median(wrong) <= TOLERANCE)
