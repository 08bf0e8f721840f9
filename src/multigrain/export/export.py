"""Write folders that others load."""

import shutil
from pathlib import Path

import numpy as np

from multigrain.errors import ConfigError, RunError
from multigrain.jsonl import write_atomic
from multigrain.model.adapter import has_adapter, merge
from multigrain.model.build import load_model

PROBE = ["A short text.", "And a longer one, so that there is something to pad in the first."]
CLOSE = 1e-5
"""Largest difference between vectors of length 1 that are the same but for rounding."""


def export_model(trained: Path, folder: Path, card: str) -> None:
    """Put the trained model into `folder` with its card, its adapter merged if it has one.

    It is written beside, checked and put in place by renaming, so the folder never holds half a model.

    Raises:
        RunError: what was written does not give the vectors of the trained model.
    """
    part = _beside(folder, ".part")
    _write_whole(trained, part)
    write_atomic(part / "README.md", card.encode())
    _replace(folder, part)


def merge_model(source: Path, folder: Path, force: bool = False) -> str:
    """Write a model with its adapter merged; returns a line that says how near its vectors are to the original's.

    Raises:
        ConfigError: the folder to write is there already.
        RunError: there is no model, or it has no adapter; or as `export_model`.
    """
    if folder.exists() and not force:
        raise ConfigError("--out", [f"{folder} exists; give another name, or --force"])
    if folder.resolve() == source.resolve():
        raise ConfigError("--out", [f"{folder} is the folder of the adapter itself; give another name"])
    if not has_adapter(load_model(source)):
        raise RunError(f"{source}: this model has no adapter to merge; it is whole as it is")
    part = _beside(folder, ".part")
    cosine = _write_whole(source, part)
    _replace(folder, part)
    return f"{folder}: merged; cosine to the vectors of {source}: {cosine:.6f}"


def _write_whole(source: Path, part: Path) -> float:
    """A folder that needs no other; returns the lowest cosine between its vectors and those of the source."""
    model = load_model(source)
    if not has_adapter(model):
        shutil.copytree(source, part)
    else:
        merge(model).save_pretrained(str(part), create_model_card=False)
    vectors, written = model.encode(PROBE), load_model(part).encode(PROBE)
    is_quantized = getattr(model[0], "quantize", None)  # merged into the weights as they were before
    if not is_quantized and not np.allclose(written, vectors, atol=CLOSE):
        raise RunError(f"{part}: the written model gives other vectors than {source}. Please report this.")
    return float((written * vectors).sum(1).min())


def _beside(folder: Path, suffix: str) -> Path:
    path = folder.with_name(folder.name + suffix)
    shutil.rmtree(path, ignore_errors=True)
    return path


def _replace(folder: Path, part: Path) -> None:
    old = _beside(folder, ".old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
