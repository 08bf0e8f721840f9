"""Check that models on the hub exist and are accessible, and fetch their small files. Does not import torch."""

from contextlib import suppress

from multigrain.errors import ConfigError, first_line
from multigrain.model.files import folder_of, repositories, revision_of
from multigrain.model.saved_settings import modules_of

SMALL = (
    *("modules.json", "config.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "adapter_config.json"),
)
"""Files fetched before a run, a few kilobytes each."""
MAIN = ("modules.json", "config.json", "adapter_config.json")
"""Main files; a model has at least one of them."""
TIMEOUT = 10
"""Seconds to wait for an answer of the hub."""


def fetch_settings(name: str, key: str) -> None:
    """Fetch the small files of a hub name into the cache, without requests for files that are already there.

    Raises:
        ConfigError: the model does not exist, is not accessible, or is unknown because the hub cannot be reached;
            names the setting `key`.
    """
    faults: list[str] = []
    for repository in repositories(name):
        try:
            _fetch(repository)
        except Exception as error:  # the library raises errors of many kinds
            faults.append(_fault(repository, error))
            continue
        if _has_main(repository):
            return
        faults.append(f"{repository} is not a model: it has neither modules.json nor config.json")
    if not _has_main(name):  # with a main file, other files may be missing while the hub cannot be reached
        raise ConfigError(key, [faults[-1]])


def _fetch(repository: str) -> None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    wanted, is_reached = list(SMALL), False
    for file in wanted:
        try:
            is_reached = _fetch_file(repository, file, is_reached)
        except LocalEntryNotFoundError:  # a subclass of the next, but raised when the hub was not reached
            raise
        except EntryNotFoundError:
            is_reached = True
        if file == "modules.json" and (folder := folder_of(repository)):
            wanted += [f"{module['path']}/config.json" for module in modules_of(folder) if module["path"]]


def _fetch_file(repository: str, file: str, is_reached: bool) -> bool:
    """Fetch a file; return whether the hub has been reached so far."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    revision = revision_of(repository)
    if try_to_load_from_cache(repository, file, revision=revision) is not None:
        return is_reached
    if not is_reached:  # ask once first, because a download retries for half a minute
        with suppress(EntryNotFoundError):  # the download finds this too, and caches it
            get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=TIMEOUT)
    hf_hub_download(repository, file, revision=revision, etag_timeout=TIMEOUT)
    return True


def _has_main(name: str) -> bool:
    folder = folder_of(name)
    return folder is not None and any((folder / file).is_file() for file in MAIN)


def _fault(name: str, error: Exception) -> str:
    """Return a message that says why a repository could not be read."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, HFValidationError):
        return f"{name}: no such folder, and not a valid name on the hub"
    if isinstance(error, GatedRepoError):
        return f"{name} is gated: accept its terms at {page}, and give a token (hf auth login, or HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError):
        return f"{name}: no such folder, and no such model at {page}; if it is private, give a token"
    if isinstance(error, OfflineModeIsEnabled) or constants.is_offline_mode():
        return f"{name}: no such folder, and not in the hub's cache; HF_HUB_OFFLINE forbids asking the hub"
    if isinstance(error, HfHubHTTPError):
        return f"{name} cannot be looked up at {page}: {first_line(error)}"
    cause = f"the hub cannot be reached ({first_line(error)})"
    return f"{name}: no such folder, not in the cache, and {cause}; try: hf download {name}"
