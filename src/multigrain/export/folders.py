"""Folders that are whole or not there: written beside, and put in place by renaming."""

import shutil
from pathlib import Path


def beside(folder: Path, suffix: str) -> Path:
    """The path of a neighbour, with nothing there."""
    path = folder.with_name(folder.name + suffix)
    shutil.rmtree(path, ignore_errors=True)
    return path


def put_in_place(part: Path, folder: Path) -> None:
    """Give a finished folder its name; what had it before goes away."""
    old = beside(folder, ".old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
