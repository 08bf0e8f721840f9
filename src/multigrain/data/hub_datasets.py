"""Datasets of the Hugging Face hub, `hf:ORG/NAME[:CONFIG][:SPLIT]`; offline they come from the cache."""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hf:"
WANTED = "hf:ORG/NAME, hf:ORG/NAME:CONFIG, hf:ORG/NAME::SPLIT or hf:ORG/NAME:CONFIG:SPLIT"
_FORM = re.compile(r"hf:(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^:/\s]*))?(:(?P<split>[^:/\s]+))?", re.ASCII)


@cache
def hub_files(source: str) -> tuple[Path, ...]:
    """Return the Arrow files of a split of a dataset; download it if it is not in the cache and there is a network.

    Without a configuration it is the default one, without a split the one for training.

    Raises:
        DataError: the source is malformed, or the dataset, its configuration or its split cannot be loaded.
    """
    form = _FORM.fullmatch(source)
    if form is None:
        raise DataError(source, f"wanted {WANTED}.")
    name, config, split = form["name"], form["config"] or None, form["split"] or "train"
    try:
        found = _load(name, config, split)
    except (ConnectionError, FileNotFoundError):
        raise DataError(
            source,
            "not in the cache of this machine, and the hub has no such dataset or cannot be reached. Where there is a "
            f"network, run: hf download {name} --repo-type dataset. Then copy the folder "
            f"hub/datasets--{name.replace('/', '--')} of its cache (HF_HOME, by default ~/.cache/huggingface) here.",
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(source, f"cannot be loaded: {error} (wanted {WANTED})") from None
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
