"""Write a trained model as a folder for others to load, with its adapter merged."""

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
"""Largest difference that rounding causes between vectors of length 1."""
ALIKE = 0.9
"""Lowest cosine to accept if weights are rounded to half precision."""


def export_model(trained: Path, folder: Path, card: str, section: ExportSection) -> None:
    """Write the trained model with its card to `folder`, and merge its adapter, if any.

    The model is written to a temporary folder, checked, and renamed, so the folder never holds an incomplete model.

    Raises:
        RunError: the written model does not give the vectors of the trained model; or as `export_onnx`.
    """
    with atomic_folder(folder) as part:
        _write_merged(load_model(trained), trained, part)
        write_atomic(part / "README.md", card.encode())
        if section.onnx:
            export_onnx(load_model(part), part / "onnx", section.int8)


def merge_model(source: Path, folder: Path) -> str:
    """Write a model with its adapter merged; return a line with the cosine of its vectors to the original's.

    Raises:
        ConfigError: the output folder is the folder of the adapter or of its base.
        RunError: there is no model, or it has no adapter; or as `export_model`.
    """
    model = load_model(source)
    if not has_adapter(model):
        raise RunError(f"{source}: this model has no adapter to merge; it is already complete.")
    needed = {source.resolve(): "the adapter itself", Path(base_of(model)).resolve(): "the adapter's base"}
    if used := needed.get(folder.resolve()):
        raise ConfigError("--out", [f"{folder} is the folder of {used}; give another name"])
    with atomic_folder(folder) as part:
        cosine = _write_merged(model, source, part)
    return f"{folder}: merged; cosine to the vectors of {source}: {cosine:.6f}"


def _copy(source: str, target: str) -> None:
    """Copy a file, or hard-link weights and vocabulary, which are large and not meant to be edited."""
    copy = link_or_copy if source.endswith((".safetensors", ".bin", "tokenizer.json", ".model")) else shutil.copy2
    copy(source, target)


def _write_merged(model: SentenceTransformer, source: Path, part: Path) -> float:
    """Write a self-contained folder; return the lowest cosine between its vectors and the source's.

    Raises:
        RunError: the written model gives other vectors.
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
    if getattr(model[0], "quantize", None):  # merged into the weights from before quantization
        is_same = cosine > 0
        say(f"  merged into full-precision weights: cosine {cosine:.3f} to the vectors of the 4-bit model")
    if not is_same:  # also for NaN
        raise RunError(f"{source}: the written model gives other vectors (cosine {cosine:.4f}). Please report this.")
    return cosine
