"""A GGUF file as a folder that transformers can train and save."""

import hashlib
import os
import shutil
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from multigrain.errors import ConfigError, RunError
from multigrain.progress import say

SAMPLE = 2**20
"""Bytes at either end of the file that tell it from others."""


def as_folder(file: Path, key: str) -> Path:
    """The model of a GGUF file in float32, written once into the user's cache.

    Args:
        file: the GGUF file.
        key: the setting that named it.

    Raises:
        RunError: the package that reads such files is not installed.
        ConfigError: the file is no GGUF file of a model that transformers knows.
    """
    folder = cache() / f"{file.stem}-{_digest(file)}"
    if folder.is_dir():
        return folder
    say(f"  {file.name}: written to {folder} as a model that can be trained (once; 4 bytes a parameter)")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        _convert(file, part)
    except ImportError as error:
        raise RunError(f'{file}: reading GGUF files needs a package. Run: pip install "gguf>=0.17"') from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(key, [f"{file} cannot be read as the GGUF file of a language model: {reason}"]) from error
    else:
        if not folder.is_dir():  # another process may have been faster
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def cache() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/multigrain, ~/.cache/multigrain by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "multigrain")


def _convert(file: Path, folder: Path) -> None:
    read = AutoModel.from_pretrained(str(file.parent), gguf_file=file.name)
    # As read it says that it is quantised, and refuses to be saved.
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = type(read)(type(read.config).from_dict(settings))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - SAMPLE))
        end = opened.read(SAMPLE)
        opened.seek(0)
        return hashlib.sha256(opened.read(SAMPLE) + end + str(size).encode()).hexdigest()[:16]
