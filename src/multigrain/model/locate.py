"""Find the folder, file or hub name that a setting means, and check that it exists. Does not import torch."""

from difflib import get_close_matches
from pathlib import Path

from multigrain.errors import ConfigError, RunError
from multigrain.extras import find_weights
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, folder_of, is_gguf
from multigrain.model.hub import fetch_settings

WANTED = f'a model\'s folder, a GGUF file, a hub name, "{EMBEDDED}" or "{EMBEDDED_LLM}"'


def find_base(name: str, key: str) -> str:
    """Return the folder, GGUF file or hub name that the setting `key` names, such as `model.base`.

    Raises:
        RunError: the embedded model is not installed.
        ConfigError: the file or folder does not exist, or the folder holds no model.
    """
    if name == EMBEDDED:
        return embedded_encoder()
    if name == EMBEDDED_LLM:
        return str(find_weights())
    folder = Path(name)
    if is_gguf(name):
        if not folder.is_file():
            raise ConfigError(key, [f"{name}: no such file{_suggestion(name)}"])
        return name
    if folder.is_file():
        raise ConfigError(key, [f"{name} is a file; wanted its folder ({folder.parent}), or {WANTED}"])
    is_path_like = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if is_path_like and not folder.is_dir():
        raise ConfigError(key, [f"{name}: no such folder{_suggestion(name)}; wanted {WANTED}"])
    if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "modules.json")):
        raise ConfigError(key, [f"{name} is not a model: it has neither modules.json nor config.json"])
    return name


def require_model(name: str, key: str) -> None:
    """Check that a model exists, on this disk or on the hub, before a run spends money.

    Raises:
        RunError, ConfigError: as `find_base` and `fetch_settings`.
    """
    found = find_base(name, key)
    if is_gguf(found) or Path(found).is_dir():
        return
    try:
        fetch_settings(name, key)
    except ConfigError as error:
        raise ConfigError(key, [f"{fault}{_suggestion(name)}" for fault in error.faults]) from error


def _suggestion(name: str) -> str:
    """Suggest a model that a misspelt name may mean: an embedded one, or a neighbour of the given path."""
    path = Path(name)
    beside = [str(path.with_name(other.name)) for other in path.parent.glob("*") if path.name]
    beside = [other for other in beside if Path(other) != path]
    near = get_close_matches(name, [EMBEDDED, EMBEDDED_LLM, *beside], 1, 0.8)
    return f'; did you mean "{near[0]}"?' if near else ""


def embedded_encoder() -> str:
    """Return the folder of all-MiniLM-L6-v2 in its package, without importing the package.

    Raises:
        RunError: the package is not installed.
    """
    folder = folder_of(EMBEDDED)
    if folder is None:
        raise RunError('the embedded encoder is not installed. Run: pip install "multigrain[embedded]"')
    return str(folder)
