"""Check that a loaded model matches its files.

The libraries initialize missing weights at random, and at most warn about it.
"""

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedModel

from multigrain.model.adapter import has_adapter
from multigrain.model.left_out_heads import heads_left_out


def integrity_fault(folder: Path, model: SentenceTransformer) -> str | None:
    """Describe the first mismatch between a loaded model and its files; return None if there is none."""
    if absent := missing_weights(folder, model):
        return f"{len(absent)} of the model's weights are missing from its files, such as {absent[0]}"
    if unexpected := _unexpected_layers(folder, model):
        found = f"{len(unexpected)} weights in its files have no place in the model, such as {unexpected[0]}"
        return f"{found}; see config.json"
    return _length_fault(model)


def missing_weights(folder: Path, model: nn.Sequential) -> list[str]:
    """List the model's weights that are missing from the folder; none if it has no safetensors files.

    Names in a file may have one or two leading modules more or fewer than the model's. A pooler is not used, and often
    not saved.
    """
    saved = _saved(folder)
    if not saved:
        return []
    shorter = {ending for name in saved for ending in _endings(name)}
    return [name for name in _names(model) if name not in shorter and saved.isdisjoint(_endings(name))]


def randomly_initialized(folder: Path, model: nn.Sequential) -> list[str]:
    """List a newly loaded model's weights that its files lack, and which are therefore random.

    If names differ, transformers decides, because it translates names of older releases.

    Args:
        folder: the folder of the model's transformer.
        model: the newly loaded model.
    """
    backbone = getattr(model[0], "model", None)
    if not isinstance(backbone, PreTrainedModel):
        return []
    absent = missing_weights(folder, model)
    if has_adapter(model) or (_saved(folder) and not absent):
        return absent
    with heads_left_out():
        _, info = type(backbone).from_pretrained(folder, output_loading_info=True)
    return sorted(name for name in info["missing_keys"] if "pooler" not in name)


def _unexpected_layers(folder: Path, model: SentenceTransformer) -> list[str]:
    """List weights of layers beyond the model's last one. Other unknown names are heads, which a model may lack."""
    names = set(_names(model))
    known = {ending for name in names for ending in _endings(name)}
    kinds = {re.sub(r"\d+", "#", ending) for ending in known}
    return [
        name
        for name in sorted(_saved(folder))
        if names.isdisjoint(_endings(name)) and name not in known and re.sub(r"\d+", "#", name) in kinds
    ]


def _length_fault(model: SentenceTransformer) -> str | None:
    length, positions = model.max_seq_length, position_limit(model)
    if length is not None and (type(length) is not int or length < 1):
        return f"max_seq_length: found {length!r}; wanted a number above 0"
    if length and positions is not None and positions < length:
        return f"max_seq_length: found {length}; the model has positions for {positions} tokens"
    return None


def position_limit(model: nn.Sequential) -> int | None:
    """Return the number of tokens that the model has positions for; None if it has no table of positions.

    RoBERTa and similar models start counting after their padding token (text never uses positions 0 and 1); BART has
    an offset of 2.
    """
    backbone = getattr(model[0], "model", None)
    if not isinstance(backbone, nn.Module):
        return None
    limits = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name:
            before_first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - before_first - _offset(module))
    return min(limits, default=None)


def _offset(module: nn.Module) -> int:
    offset = getattr(module, "offset", 0)
    return offset if isinstance(offset, int) else 0


def _saved(folder: Path) -> set[str]:
    saved: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            saved.update(opened.keys())
    return saved


def _names(model: nn.Sequential) -> list[str]:
    """List a model's weights by name; for an adapter, only those it adds to its base."""
    backbone: Any = getattr(model[0], "model", None)
    if not isinstance(backbone, nn.Module):
        return []
    names = [name for name, _ in backbone.named_parameters() if "pooler" not in name]
    if has_adapter(model):
        names = [name.replace(".default", "") for name in names if "lora_" in name]
        names = [name.removesuffix(".weight") if "magnitude" in name else name for name in names]
    return names


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(min(3, len(parts)))]
