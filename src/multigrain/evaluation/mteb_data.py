"""Data sets of mteb's tasks: from a folder if they are there, else from the hub, by their revision."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from multigrain.errors import DataError, first_line

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.abstasks import AbsTask


def parts_of(task: "AbsTask") -> "list[AbsTask]":
    """Return the subtasks that this task averages; none for most tasks."""
    return getattr(task.metadata, "tasks", [])


def with_data(task: "AbsTask", data: Path | None) -> "AbsTask":
    """Return a copy of the task that loads its data set from the folder, if it is there, and explains a failure."""
    own = copy.deepcopy(task)  # benchmarks share tasks, and the random generators that these sample with
    if parts := [with_data(part, data) for part in parts_of(task)]:
        own.metadata = task.metadata.model_copy(update={"tasks": parts})
        return own
    wanted = task.metadata.dataset
    folder = None if data is None else data.resolve() / wanted["path"]
    revision = None  # set for a folder
    if folder is not None and folder.is_dir():
        revision = _revision_of(folder)
        place = {**wanted, "path": str(folder), "revision": revision}
        own.metadata = task.metadata.model_copy(update={"dataset": place})
    cast(Any, own).load_data = partial(_load_data, own.load_data, revision, task.metadata, data)
    return own


def _load_data(
    load: Callable[..., None], revision: str | None, task: "TaskMetadata", data: Path | None, *args: Any, **kwargs: Any
) -> None:
    """Load the data set of a task; `revision` is the revision of its folder, or None for the hub.

    Raises:
        DataError: it cannot be loaded, for any reason; each layer below mteb has errors of its own.
    """
    try:
        with _cache_for(revision):
            load(*args, **kwargs)
    except Exception as error:
        raise DataError(f"mteb:{task.name}", _fault(task, data, error)) from error


@contextmanager
def _cache_for(revision: str | None) -> Iterator[None]:
    """Cache a folder's data by revision, because the library takes all folders of one layout for the same data."""
    from datasets import config

    usual = config.HF_DATASETS_CACHE
    if revision is not None:
        config.HF_DATASETS_CACHE = Path(usual) / revision
    try:
        yield
    finally:
        config.HF_DATASETS_CACHE = usual


def _fault(task: "TaskMetadata", data: Path | None, error: Exception) -> str:
    """Say which data set is missing, where it was looked for, and how to get it."""
    name, revision = task.dataset["path"], task.dataset["revision"]
    if data is None:
        looked = "on the hub"
    elif (data / name).is_dir():
        looked = f"in {data / name}"
    else:
        looked = f"in {data / name}, which is not there, and on the hub"
    fetch = f"hf download {name} --repo-type dataset --revision {revision} --local-dir {(data or Path('DATA')) / name}"
    return (
        f"its data set {name} cannot be loaded: {first_line(error).rstrip('.')}. Looked {looked}. "
        f'Run this where the hub can be reached: {fetch}; then set evaluation.mteb_data = "{data or "DATA"}"'
    )


def _revision_of(folder: Path) -> str:
    """Return the hub commit that was downloaded into a folder, if known; else a digest of the folder's files."""
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text(encoding="utf-8").partition("\n")[0] for note in notes}
    if len(commits) == 1:
        return commits.pop()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not is_hidden:
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"local-{digest.hexdigest()[:16]}"
