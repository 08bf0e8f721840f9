"""Write folders that others load."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from multigrain.config import ExportSection
from multigrain.errors import ConfigError, RunError
from multigrain.export.folders import beside, put_in_place
from multigrain.export.onnx import export_onnx
from multigrain.jsonl import write_atomic
from multigrain.model.adapter import has_adapter, merge
from multigrain.model.build import load_model

PROBE = ["A short text.", "And a longer one, so that there is something to pad in the first."]
CLOSE = 1e-5
"""Largest difference between vectors of length 1 that are the same but for rounding."""
ALIKE = 0.98
"""Lowest cosine between vectors that are the same but for the rounding of half precision."""


def export_model(trained: Path, folder: Path, card: str, section: ExportSection) -> None:
    """Put the trained model into `folder` with its card, its adapter merged if it has one.

    It is written beside, checked and put in place by renaming, so the folder never holds half a model.

    Raises:
        RunError: what was written does not give the vectors of the trained model; or see `export_onnx`.
    """
    part = beside(folder, ".part")
    _write_whole(trained, part)
    write_atomic(part / "README.md", card.encode())
    if section.onnx:
        export_onnx(load_model(part), part / "onnx", section.int8)
    put_in_place(part, folder)


def merge_model(source: Path, folder: Path) -> str:
    """Write a model with its adapter merged; returns a line that says how near its vectors are to the original's.

    Raises:
        ConfigError: the folder to write is that of the adapter.
        RunError: there is no model, or it has no adapter; or as `export_model`.
    """
    if folder.resolve() == source.resolve():
        raise ConfigError("--out", [f"{folder} is the folder of the adapter itself; give another name"])
    if not has_adapter(load_model(source)):
        raise RunError(f"{source}: this model has no adapter to merge; it is whole as it is.")
    part = beside(folder, ".part")
    cosine = _write_whole(source, part)
    put_in_place(part, folder)
    return f"{folder}: merged; cosine to the vectors of {source}: {cosine:.6f}"


def _write_whole(source: Path, part: Path) -> float:
    """A folder that needs no other; returns the lowest cosine between its vectors and those of the source."""
    model = load_model(source)
    if not has_adapter(model):
        shutil.copytree(source, part)
    else:
        merge(model).save_pretrained(str(part), create_model_card=False)
    vectors, written = model.encode(PROBE), load_model(part).encode(PROBE)
    cosine = float((written * vectors).sum(1).min())
    backbone: Any = model[0].model
    is_half = backbone.dtype.itemsize < 4
    is_same = cosine > ALIKE if is_half else np.allclose(written, vectors, atol=CLOSE)
    is_quantized = getattr(model[0], "quantize", None)  # merged into the weights as they were before
    if not is_quantized and not is_same:
        raise RunError(f"{part}: the written model gives other vectors than {source}. Please report this.")
    return cosine
