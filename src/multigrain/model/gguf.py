"""Convert a GGUF file to a folder that transformers can train and save."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer

from multigrain.errors import ConfigError, RunError, first_line
from multigrain.extras import require_extra
from multigrain.files import digest_of
from multigrain.terminal import say


def convert_gguf(file: Path, key: str) -> Path:
    """Convert a GGUF file to a folder with the model in float32, and return it. The user's cache keeps the folder.

    Args:
        file: the GGUF file.
        key: the setting that named it.

    Raises:
        RunError: the package that reads such files is not installed, or the cache cannot be written.
        ConfigError: the file is not a GGUF file of an architecture that transformers supports.
    """
    try:
        folder = cache_folder() / f"{file.stem}-{digest_of(file)[:16]}"
    except OSError as error:
        raise ConfigError(key, [f"{file} cannot be read: {error.strerror}"]) from error
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone_in(folder.parent):
                _make(file, folder, key)
        except (OSError, SafetensorError) as error:
            advice = "Free some disk space, or set XDG_CACHE_HOME to a folder with enough space."
            raise RunError(f"{folder} cannot be written: {first_line(error)}. {advice}") from error
    return folder


def cache_folder() -> Path:
    """Return the folder of reproducible files: $XDG_CACHE_HOME/multigrain, by default ~/.cache/multigrain."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "multigrain")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder, waiting for other processes; a killed process releases its lock."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _make(file: Path, folder: Path, key: str) -> None:
    """Write the model to a temporary folder, then rename it, so the folder is never incomplete."""
    if folder.is_dir():  # another process was faster
        return
    say(f"  {file.name}: converting to {folder} for training (once; 4 bytes per parameter)")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process
    try:
        for saved in _read(file, key):
            saved.save_pretrained(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(file: Path, key: str) -> tuple[Any, Any]:
    """Read the model and the tokenizer of a GGUF file."""
    require_extra("embedded")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        read, info = AutoModel.from_pretrained(**source, output_loading_info=True)
        if absent := sorted(info["missing_keys"]):  # transformers would initialize them at random
            raise ValueError(f"{len(absent)} of the model's weights are missing, such as {absent[0]}")
        return _trainable(read), AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # on a damaged file, the reader raises errors of any kind
        fault = f"{file} cannot be read as the GGUF file of a language model: {first_line(error)}"
        raise ConfigError(key, [fault]) from error


def _trainable(read: Any) -> Any:
    """Copy a model without its quantization settings, which prevent saving."""
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = type(read)(type(read.config).from_dict(settings))
    model.load_state_dict(read.state_dict())
    return model
