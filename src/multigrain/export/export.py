"""Write the folder that others load."""

import shutil
from pathlib import Path

import numpy as np

from multigrain.errors import RunError
from multigrain.jsonl import write_atomic
from multigrain.model.build import load_model

PROBE = ["A short text.", "And a longer one, so that there is something to pad in the first."]


def export_model(trained: Path, folder: Path, card: str) -> None:
    """Copy the trained model to `folder` with its card, and check that it loads and gives the same vectors.

    The copy is made beside and put in place by renaming, so the folder never holds half a model.

    Raises:
        RunError: the copy does not give the vectors of the original.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(trained, part)
    write_atomic(part / "README.md", card.encode())
    if not np.allclose(load_model(part).encode(PROBE), load_model(trained).encode(PROBE), atol=1e-6):
        raise RunError(f"{folder}: the exported model gives other vectors than the trained one. Please report this.")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
