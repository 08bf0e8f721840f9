"""Resolve what a path means: the file of a run, its run folder, or the folder of its model."""

import os
from pathlib import Path

from multigrain.errors import ConfigError

RUN_FILE = "run.toml"
"""What a run folder calls the file that describes it."""
EXPORTED_MODEL = "model"
"""The folder of the exported model in a run folder."""
TRAINED_MODEL = "training/model"
"""The folder of the model as it was trained, its adapter apart."""


def as_path(value: str | Path, wanted: str) -> Path:
    """Return a path that a caller gave, with `~` as the home folder.

    Raises:
        TypeError: it is neither text nor a path.
        ConfigError: it is empty, which would be the folder that the command is run in.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"found {type(value).__name__}; wanted {wanted}, as str or Path")
    if value == "":
        raise ConfigError(wanted, ["found nothing; give its path"])
    return Path(value).expanduser()


def is_run_folder(folder: Path) -> bool:
    """Return whether a run was begun in the folder."""
    return (folder / RUN_FILE).is_file() and any((folder / name).is_file() for name in ("manifest.json", ".lock"))


def run_file_of(folder: Path) -> Path:
    """The file that describes a folder's run.

    Raises:
        ConfigError: it has none; says what the folder is.
    """
    if (folder / RUN_FILE).is_file():
        return folder / RUN_FILE
    found = "is a model's folder" if _is_model(folder) else f"is a folder without {RUN_FILE}"
    run = next((parent for parent in folder.absolute().parents if is_run_folder(parent)), None)
    advice = f"; its run is {run}" if run else ""
    raise ConfigError(folder, [f"{found}; wanted a run's file or its run folder{advice}"])


def run_folder_of(place: str | Path) -> Path:
    """The run folder that is meant: itself, or that of the model whose folder is given."""
    folder = as_path(place, "a run folder")
    inside = (parent for parent in (*folder.parents, *folder.absolute().parents) if is_run_folder(parent))
    return folder if is_run_folder(folder) or not _is_model(folder) else next(inside, folder)


def model_folder_of(place: str | Path) -> Path:
    """The model's folder that is meant: itself, or that of the model which a run has exported."""
    folder = as_path(place, "a model's folder")
    return folder / EXPORTED_MODEL if is_run_folder(folder) and not _is_model(folder) else folder


def trained_folder_of(place: str | Path) -> Path:
    """The folder of the model that is meant, as it was trained: itself, or that of a run."""
    folder = as_path(place, "a model's folder")
    return folder / TRAINED_MODEL if is_run_folder(folder) else folder


def _is_model(folder: Path) -> bool:
    return (folder / "modules.json").is_file()
