"""A GGUF file as a folder that transformers can train and save."""

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
    """Convert a GGUF file to a folder with the model in float32, written once into the user's cache.

    Args:
        file: the GGUF file.
        key: the setting that named it.

    Raises:
        RunError: the package that reads such files is not installed, or the cache cannot be written.
        ConfigError: the file is no GGUF file of a model that transformers knows.
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
            advice = "Make room, or set XDG_CACHE_HOME to a folder that has some."
            raise RunError(f"{folder} cannot be written: {first_line(error)}. {advice}") from error
    return folder


def cache_folder() -> Path:
    """Return the folder of what can be made again: $XDG_CACHE_HOME/multigrain, ~/.cache/multigrain by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "multigrain")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder alone: wait until no other process does; one that was killed counts as gone."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _make(file: Path, folder: Path, key: str) -> None:
    """Write the model beside, then rename, so the folder never holds half of it."""
    if folder.is_dir():  # another process was faster
        return
    say(f"  {file.name}: is read, and written to {folder} as a model to be trained (once; 4 bytes a parameter)")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        for saved in _read(file, key):
            saved.save_pretrained(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(file: Path, key: str) -> tuple[Any, Any]:
    """Read model and tokenizer."""
    require_extra("embedded")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        read, info = AutoModel.from_pretrained(**source, output_loading_info=True)
        if absent := sorted(info["missing_keys"]):  # transformers would draw them at random
            raise ValueError(f"{len(absent)} of the model's weights are not in it, such as {absent[0]}")
        return _trainable(read), AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # the reader meets a broken file with whatever its next line raises
        fault = f"{file} cannot be read as the GGUF file of a language model: {first_line(error)}"
        raise ConfigError(key, [fault]) from error


def _trainable(read: Any) -> Any:
    """Copy a model as one that can be saved: as it was read, it says that it is quantised, and refuses."""
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = type(read)(type(read.config).from_dict(settings))
    model.load_state_dict(read.state_dict())
    return model
