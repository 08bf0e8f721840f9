"""Resolve the path of a run's file, of a run folder, or of a model's folder."""

import os
from pathlib import Path

from multigrain.errors import ConfigError

RUN_FILE = "run.toml"
"""Name of the file in a run folder that describes the run."""
EXPORTED_MODEL = "model"
"""Folder of the exported model in a run folder."""
TRAINED_MODEL = "training/model"
"""Folder of the model as it was trained, with its adapter not merged."""


def as_path(value: str | Path, wanted: str) -> Path:
    """Return the path that a caller gave, with `~` expanded.

    Raises:
        TypeError: it is neither text nor a path.
        ConfigError: it is empty, which would mean the current folder.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"found {type(value).__name__}; wanted {wanted}, as str or Path")
    if value == "":
        raise ConfigError(wanted, ["found an empty path; give its path"])
    return Path(value).expanduser()


def is_run_folder(folder: Path) -> bool:
    """Return whether a run was started in the folder."""
    return (folder / RUN_FILE).is_file() and any((folder / name).is_file() for name in ("manifest.json", ".lock"))


def run_file_of(folder: Path) -> Path:
    """Return the file that describes the run of a folder.

    Raises:
        ConfigError: there is none; says what the folder is.
    """
    if (folder / RUN_FILE).is_file():
        return folder / RUN_FILE
    found = "is the folder of a model" if _is_model(folder) else f"is a folder without {RUN_FILE}"
    run = next((parent for parent in folder.absolute().parents if is_run_folder(parent)), None)
    advice = f"; its run is {run}" if run else ""
    raise ConfigError(folder, [f"{found}; wanted the file of a run or its run folder{advice}"])


def run_folder_of(place: str | Path) -> Path:
    """Return the given run folder, or the run folder of the given model."""
    folder = as_path(place, "a run folder")
    inside = (parent for parent in (*folder.parents, *folder.absolute().parents) if is_run_folder(parent))
    return folder if is_run_folder(folder) or not _is_model(folder) else next(inside, folder)


def model_folder_of(place: str | Path) -> Path:
    """Return the given model's folder, or that of the model exported by the given run."""
    folder = as_path(place, "a model's folder")
    return folder / EXPORTED_MODEL if is_run_folder(folder) and not _is_model(folder) else folder


def trained_folder_of(place: str | Path) -> Path:
    """Return the given model's folder, or that of the model trained by the given run, before its export."""
    folder = as_path(place, "a model's folder")
    return folder / TRAINED_MODEL if is_run_folder(folder) else folder


def _is_model(folder: Path) -> bool:
    return (folder / "modules.json").is_file()
