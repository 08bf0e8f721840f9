"""Write a trained model as a folder that others load, its adapter merged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from multigrain.config import ExportSection
from multigrain.errors import ConfigError, RunError
from multigrain.export.onnx import export_onnx
from multigrain.files import atomic_folder, link_or_copy, write_atomic
from multigrain.model.adapter import base_of, has_adapter, merge
from multigrain.model.load import load_model
from multigrain.terminal import say

PROBE = ["A short text.", "And a longer one, so that there is something to pad in the first."]
CLOSE = 1e-5
"""Largest difference between vectors of length 1 that are the same but for rounding."""
ALIKE = 0.9
"""Lowest cosine, where weights are rounded to half precision."""


def export_model(trained: Path, folder: Path, card: str, section: ExportSection) -> None:
    """Put the trained model into `folder` with its card, its adapter merged if it has one.

    It is written beside, checked and put in place by renaming, so the folder never holds half a model.

    Raises:
        RunError: what was written does not give the vectors of the trained model; or see `export_onnx`.
    """
    with atomic_folder(folder) as part:
        _write_merged(load_model(trained), trained, part)
        write_atomic(part / "README.md", card.encode())
        if section.onnx:
            export_onnx(load_model(part), part / "onnx", section.int8)


def merge_model(source: Path, folder: Path) -> str:
    """Write a model with its adapter merged; returns a line that says how near its vectors are to the original's.

    Raises:
        ConfigError: the folder to write is that of the adapter, or of its base.
        RunError: there is no model, or it has no adapter; or as `export_model`.
    """
    model = load_model(source)
    if not has_adapter(model):
        raise RunError(f"{source}: this model has no adapter to merge; it is whole as it is.")
    needed = {source.resolve(): "the adapter itself", Path(base_of(model)).resolve(): "the adapter's base"}
    if used := needed.get(folder.resolve()):
        raise ConfigError("--out", [f"{folder} is the folder of {used}; give another name"])
    with atomic_folder(folder) as part:
        cosine = _write_merged(model, source, part)
    return f"{folder}: merged; cosine to the vectors of {source}: {cosine:.6f}"


def _copy(source: str, target: str) -> None:
    """Copy a file; both folders share weights and vocabulary, which are most of a model and nothing to edit by hand."""
    copy = link_or_copy if source.endswith((".safetensors", ".bin", "tokenizer.json", ".model")) else shutil.copy2
    copy(source, target)


def _write_merged(model: SentenceTransformer, source: Path, part: Path) -> float:
    """Write a folder that needs no other; return the lowest cosine between its vectors and those of the source.

    Raises:
        RunError: what was written gives other vectors.
    """
    if has_adapter(model):
        merge(model).save_pretrained(str(part), create_model_card=False)
    else:
        shutil.copytree(source, part, copy_function=_copy, dirs_exist_ok=True)
    vectors = model.encode(PROBE, normalize_embeddings=True)
    written = load_model(part).encode(PROBE, normalize_embeddings=True)
    cosine = float((written * vectors).sum(1).min())
    backbone: Any = model[0].model
    is_same = cosine > ALIKE if backbone.dtype.itemsize < 4 else np.abs(written - vectors).max() <= CLOSE
    if getattr(model[0], "quantize", None):  # merged into the weights as they were before they had 4 bits
        is_same = cosine > 0
        say(f"  merged into weights in full precision: cosine {cosine:.3f} to the vectors of the model in 4 bits")
    if not is_same:  # nor NaN
        raise RunError(f"{source}: the written model gives other vectors (cosine {cosine:.4f}). Please report this.")
    return cosine
