"""Which folder or hub name a setting means. No torch."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from multigrain.config import ModelSection
from multigrain.errors import ConfigError, RunError
from multigrain.extras import find_weights
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, folder_of, is_gguf
from multigrain.model.hub import fetch_settings
from multigrain.model.roles import ROLES, prompt_for, with_prompts

WANTED = f'a model\'s folder, a GGUF file, a hub name, "{EMBEDDED}" or "{EMBEDDED_LLM}"'
PROMPTS_FILE = "config_sentence_transformers.json"
"""Where a model keeps its prompts, among other things."""


def find_base(name: str, key: str) -> str:
    """The folder, GGUF file or hub name behind the setting `key`, which is `model.base` or `grading.judge_model`.

    Raises:
        RunError: the embedded model is not installed.
        ConfigError: the folder holds no model.
    """
    if name == EMBEDDED:
        return _embedded_encoder()
    if name == EMBEDDED_LLM:
        return str(find_weights())
    folder = Path(name)
    if is_gguf(name):
        if not folder.is_file():
            raise ConfigError(key, [f"{name}: no such file{_meant(name)}"])
        return name
    if folder.is_file():
        raise ConfigError(key, [f"{name} is a file; wanted its folder, {folder.parent}, or another of: {WANTED}"])
    looks_like_path = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise ConfigError(key, [f"{name}: no such folder{_meant(name)}; wanted {WANTED}"])
    if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "modules.json")):
        raise ConfigError(key, [f"{name} is no model: it holds neither modules.json nor config.json"])
    return name


def require_model(name: str, key: str) -> None:
    """See that there is such a model, on this disk or on the hub, before anything is paid for.

    Raises:
        RunError, ConfigError: as `find_base` and `fetch_settings`.
    """
    found = find_base(name, key)
    if is_gguf(found) or Path(found).is_dir():
        return
    try:
        fetch_settings(name, key)
    except ConfigError as error:
        raise ConfigError(key, [f"{fault}{_meant(name)}" for fault in error.faults]) from error


def _meant(name: str) -> str:
    """The model that a misspelt name may mean: one of ours, or one beside where it was looked for."""
    path = Path(name)
    beside = [str(path.with_name(other.name)) for other in path.parent.glob("*") if path.name]
    beside = [other for other in beside if Path(other) != path]
    near = get_close_matches(name, [EMBEDDED, EMBEDDED_LLM, *beside], 1, 0.8)
    return f'; did you mean "{near[0]}"?' if near else ""


def _embedded_encoder() -> str:
    """The folder of all-MiniLM-L6-v2 in its package, which is not imported."""
    folder = folder_of(EMBEDDED)
    if folder is None:
        raise RunError('the embedded encoder is not installed. Run: pip install "multigrain[embedded]"')
    return str(folder)


def prompts_of(name: str) -> dict[str, str] | None:
    """The prompts that a model brings, by name, without loading it; None where they cannot be known before.

    Raises:
        RunError: the embedded encoder is not installed.
    """
    if name == EMBEDDED_LLM or is_gguf(name):
        return {}
    folder = Path(_embedded_encoder()) if name == EMBEDDED else folder_of(name)
    if folder is None or not _is_known(folder):
        return None
    path = folder / PROMPTS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {key: prompt for key, prompt in (settings.get("prompts") or {}).items() if prompt}
    except (OSError, ValueError, AttributeError):  # loading the model will say what is wrong
        return None


def prompts_to_train(section: ModelSection, base: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts of the model that is built, given those of its base: the instruction takes the place of them all."""
    if section.instruction is None:
        prompts = with_prompts(base, section.query_prompt, section.document_prompt)
        named = {name: prompt for name, prompt in prompts.items() if prompt}
        return {**named, **{role: prompt_for(role, prompts) for role in ROLES}}
    return {"query": f"Instruct: {section.instruction}\nQuery: ", "document": ""}


def _is_known(folder: Path) -> bool:
    """Whether it is settled that there is a file of prompts, or none: the hub's cache is filled bit by bit."""
    if folder.parent.name != "snapshots":
        return True
    absent = folder.parent.with_name(".no_exist") / folder.name / PROMPTS_FILE
    return (folder / PROMPTS_FILE).is_file() or absent.is_file()
