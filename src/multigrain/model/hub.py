"""Models on the hub: whether there is one, may be had, and what its small files say. No torch, no weights."""

from contextlib import suppress

from multigrain.errors import ConfigError, first_line
from multigrain.model.files import folder_of, repositories, revision_of
from multigrain.model.saved_settings import modules_of

SMALL = (
    *("modules.json", "config.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "adapter_config.json"),
)
"""Files that are fetched before a run; each has a few kilobytes."""
MAIN = ("modules.json", "config.json", "adapter_config.json")
"""A model has at least one of them."""
TIMEOUT = 10
"""Seconds that the hub has to answer."""


def fetch_settings(name: str, key: str) -> None:
    """Fetch the small files of a hub name into the cache; for those already there, the hub is not asked.

    Raises:
        ConfigError: there is no such model, it may not be had, or nobody can tell because the hub cannot be reached;
            names the setting `key`.
    """
    faults: list[str] = []
    for repository in repositories(name):
        try:
            _fetch(repository)
        except Exception as error:  # the library raises what HTTP, the disk and it itself know
            faults.append(_fault(repository, error))
            continue
        if _has_main(repository):
            return
        faults.append(f"{repository} is no model: it holds neither modules.json nor config.json")
    if not _has_main(name):  # else the rest may be missing, as long as the hub cannot be reached
        raise ConfigError(key, [faults[-1]])


def _fetch(repository: str) -> None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    wanted, is_reached = list(SMALL), False
    for file in wanted:
        try:
            is_reached = _fetch_file(repository, file, is_reached)
        except LocalEntryNotFoundError:  # of the kind of the next one, but nobody was there to ask
            raise
        except EntryNotFoundError:
            is_reached = True
        if file == "modules.json" and (folder := folder_of(repository)):
            wanted += [f"{module['path']}/config.json" for module in modules_of(folder) if module["path"]]


def _fetch_file(repository: str, file: str, is_reached: bool) -> bool:
    """Fetch a file, and tell whether the hub has been reached by now."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    revision = revision_of(repository)
    if try_to_load_from_cache(repository, file, revision=revision) is not None:
        return is_reached
    if not is_reached:  # asked once, because the download would try for half a minute
        with suppress(EntryNotFoundError):  # the download finds that too, and remembers it
            get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=TIMEOUT)
    hf_hub_download(repository, file, revision=revision, etag_timeout=TIMEOUT)
    return True


def _has_main(name: str) -> bool:
    folder = folder_of(name)
    return folder is not None and any((folder / file).is_file() for file in MAIN)


def _fault(name: str, error: Exception) -> str:
    """Say why a repository could not be looked at."""
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
        return f"{name}: no such folder, and no name that a model on the hub can have"
    if isinstance(error, GatedRepoError):
        return f"{name} is gated: accept its terms at {page}, and give a token (hf auth login, or HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError):
        return f"{name}: no such folder, and no such model at {page}, unless it is private: then give a token"
    if isinstance(error, OfflineModeIsEnabled) or constants.is_offline_mode():
        return f"{name}: no such folder, and not in the cache of the hub, which HF_HUB_OFFLINE forbids to ask"
    if isinstance(error, HfHubHTTPError):
        return f"{name} cannot be looked up at {page}: {first_line(error)}"
    cause = f"the hub cannot be reached ({first_line(error)})"
    return f"{name}: no such folder, not in the cache, and {cause}; try: hf download {name}"
