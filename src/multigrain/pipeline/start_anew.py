"""Begin a training anew if what determines it has changed since its last checkpoint."""

import shutil
from collections.abc import Collection
from pathlib import Path

from multigrain.files import write_atomic
from multigrain.terminal import say


def start_anew_if_changed(folder: Path, inputs: str, fault: str, kept: Collection[Path] = ()) -> None:
    """Remove what a training with other inputs has left in its folder, and note the inputs of this one.

    Args:
        folder: the folder of the training, with its checkpoints.
        inputs: a digest of everything that determines the training.
        fault: the message if there are checkpoints of other inputs.
        kept: files and folders that check themselves what they were made from.
    """
    note = folder / "fingerprint"
    noted = note.read_text(encoding="utf-8") if note.is_file() else None
    if noted == inputs:
        return
    if noted is not None and any(folder.glob("checkpoints/*")):
        say(f"  {fault}")
    for path in folder.glob("*"):
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_atomic(note, inputs.encode())
