"""Datasets of the Hugging Face hub, `hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]`; offline they come from the cache."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hf:"
WANTED = "hf:ORG/NAME, hf:ORG/NAME:CONFIG, hf:ORG/NAME::SPLIT or hf:ORG/NAME:CONFIG:SPLIT; @REVISION may follow NAME"
_FORM = re.compile(
    r"hf:(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[^:@\s]+))?(:(?P<config>[^:/\s]*))?(:(?P<split>[^:/\s]+))?",
    re.ASCII,
)
_COMMIT = re.compile("[0-9a-f]{40}")


@cache
def hub_files(source: str) -> tuple[Path, ...]:
    """Return the Arrow files of a split of a dataset; download it if it is not in the cache and there is a network.

    Without a configuration it is the default one, without a split the one for training, and without a revision (a
    branch, a tag or a commit) the newest one.

    Raises:
        DataError: the source is malformed, or the dataset, its revision, configuration or split cannot be loaded.
    """
    form = _FORM.fullmatch(source)
    if form is None:
        raise DataError(source, f"wanted {WANTED}.")
    name, revision, config, split = form["name"], form["revision"], form["config"] or None, form["split"] or "train"
    try:
        found = _load(name, config, split) if revision is None else _load_revision(name, revision, config, split)
    except (ConnectionError, FileNotFoundError):
        of_revision = f" --revision {revision}" if revision else ""
        raise DataError(
            source,
            "not in the cache of this machine, and the hub has no such dataset or cannot be reached. Where there is a "
            f"network, run: hf download {name} --repo-type dataset{of_revision}. Then copy the folder "
            f"hub/datasets--{name.replace('/', '--')} of its cache (HF_HOME, by default ~/.cache/huggingface) here.",
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(source, f"cannot be loaded: {error} (wanted {WANTED})") from None
    return _files_of(found)


def commit_of(files: Iterable[Path]) -> str | None:
    """Return the commit of the dataset that the `hub_files` are from; None if their path does not name it."""
    return next((part for path in files for part in path.parts if _COMMIT.fullmatch(part)), None)


def _files_of(found: "Dataset") -> tuple[Path, ...]:
    return tuple(Path(file["filename"]) for file in found.cache_files)


def _load(name: str, config: str | None, split: str) -> "Dataset":
    """Load a split; if the hub cannot be reached, from what `datasets` or `hf download` has left in the cache.

    Raises:
        OSError, ValueError, RuntimeError: see `datasets.load_dataset`.
    """
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    try:
        return load_dataset(name, config, split=split)
    except ConnectionError:
        return load_dataset(snapshot_download(name, repo_type="dataset", local_files_only=True), config, split=split)


def _load_revision(name: str, revision: str, config: str | None, split: str) -> "Dataset":
    """Load a split of a revision.

    Where `datasets` cannot reach the hub, it takes the newest revision in its cache, whatever was asked for. So the
    commit is found first, and what is loaded is compared with it.

    Raises:
        OSError, ValueError, RuntimeError: see `datasets.load_dataset`.
    """
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    snapshot = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=["README.md"])
    commit = Path(snapshot).name
    try:
        found = load_dataset(name, config, split=split, revision=commit)
    except ConnectionError:
        found = None
    if found is None or commit_of(_files_of(found)) != commit:
        found = load_dataset(snapshot, config, split=split)
    return found
