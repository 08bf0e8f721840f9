"""Find the checkpoint from which a training resumes."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from multigrain.errors import RunError
from multigrain.files import write_atomic

STATE = "trainer_state.json"


def last_checkpoint(folder: Path, batch_size: int, processes: int = 1) -> str | None:
    """Return the newest complete checkpoint, and remove newer ones that a killed process left incomplete.

    Args:
        folder: the folder of the checkpoints.
        batch_size: number of tuples in a step, over all processes.
        processes: number of processes that train now.

    Raises:
        RunError: the checkpoint was made by another number of processes.
    """
    newest = newest_whole(folder, batch_size)
    for path in _newest_first(folder):
        if path == newest:
            break
        shutil.rmtree(path)
    if newest and (found := _processes(_state(newest) or {}, batch_size)) != processes:
        raise RunError(
            f"{newest}: made by {found} processes, but now there are {processes}. Start as many as then, "
            "or use --force to restart the training."
        )
    return str(newest) if newest else None


def newest_whole(folder: Path, batch_size: int) -> Path | None:
    """Return the newest complete checkpoint, or None; remove nothing."""
    for path in _newest_first(folder):
        state = _state(path)
        if state is not None and _is_whole(path, state, batch_size):
            return path
    return None


def remove_older(folder: Path, batch_size: int) -> None:
    """Remove checkpoints older than the newest complete one; other processes may still be writing a newer one."""
    newest = newest_whole(folder, batch_size)
    found = _newest_first(folder)
    for path in found[found.index(newest) + 1 :] if newest else []:
        shutil.rmtree(path)


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """Return the trainer state, which the main process writes last; None if it is missing or damaged."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and state.get("train_batch_size") else None


def _processes(state: dict[str, Any], batch_size: int) -> int:
    return max(1, batch_size // int(state["train_batch_size"]))


def _is_whole(checkpoint: Path, state: dict[str, Any], batch_size: int) -> bool:
    """Return whether every process has written its random state, and no file is truncated."""
    count = _processes(state, batch_size)
    names = ["rng_state.pth"] if count == 1 else [f"rng_state_{rank}.pth" for rank in range(count)]
    zips = [checkpoint / name for name in ("optimizer.pt", "scheduler.pt", *names)]
    if not all(path.is_file() and is_zipfile(path) for path in zips):
        return False
    return all(_is_uncut(path) for path in checkpoint.rglob("*.safetensors"))


def _is_uncut(path: Path) -> bool:
    """Return whether a safetensors file is as long as its header says; a power cut can truncate it."""
    try:
        with safe_open(path, "np"):
            return True
    except SafetensorError:
        return False


def cut_log(path: Path, step: int) -> None:
    """Cut a training log at a step; damaged lines, which a killed process leaves, are left out."""
    lines: list[str] = []
    if step and path.is_file():
        with path.open(encoding="utf-8") as log:
            for line in log:
                with suppress(ValueError, KeyError, TypeError):
                    if line.endswith("\n") and json.loads(line)["step"] <= step:
                        lines.append(line)
    write_atomic(path, "".join(lines).encode())
