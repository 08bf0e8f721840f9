"""Check that a model's files exist and are complete, as far as sizes and headers tell. Does not import torch."""

import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from multigrain.model.saved_settings import settings_of

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Names of weight files; loading takes the first that exists."""
SETTINGS = (
    *("modules.json", "config.json", "adapter_config.json", "config_sentence_transformers.json"),
    *("sentence_*_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
"""Names of settings files, in any folder of a model."""
POINTER = b"version https://git-lfs"
"""First bytes of a file that git-LFS has not fetched yet."""


def settings_faults(folder: Path) -> Iterator[str]:
    """Yield a message for each unreadable settings file at the top of a folder."""
    paths = sorted({path for pattern in SETTINGS for path in folder.glob(pattern)})
    for path in paths:
        if fault := _file_fault(path):
            yield fault


def weight_faults(folder: Path, is_all_here: bool) -> Iterator[str]:
    """Yield a message for each fault of the weight files in a folder.

    Args:
        folder: the folder of a model, or of one of its modules.
        is_all_here: whether an absent file counts as missing; otherwise the hub may still provide it.
    """
    names = ADAPTER_WEIGHTS if (folder / "adapter_config.json").is_file() else WEIGHTS
    first = _first_of(folder, names)
    if first is None:
        if is_all_here:
            yield f"there is no weight file in {folder} ({', '.join(names)})"
        return
    files = _files_with_weights(first)
    if not files:
        yield f"{first} lists no weight files; fetch it again"
    for file in files:
        if file.is_file() and (fault := _file_fault(file)):
            yield fault
        elif is_all_here and not file.is_file():
            yield f"{file} is missing, although {first.name} lists it; fetch it"


def weights_in(folder: Path) -> int | None:
    """Return the number of parameters in a folder's weight files; None if the files do not say it.

    A torch file, whose header does not say it, is assumed to be in single precision.
    """
    first = _first_of(folder, WEIGHTS)
    total = 0
    for file in _files_with_weights(first) if first else []:
        if file.suffix == ".safetensors":
            total += sum(math.prod(shape) for shape in shapes_in(file).values())
        elif file.is_file():
            total += file.stat().st_size // 4
    return total or None


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _files_with_weights(first: Path) -> list[Path]:
    """Return the files that an index lists, or the file itself if it is not a readable index."""
    if first.suffix != ".json" or _file_fault(first):
        return [first]
    shards = settings_of(first.parent, first.name).get("weight_map") or {}
    return sorted({first.parent / str(name) for name in shards.values()})


def shapes_in(file: Path) -> dict[str, list[int]]:
    """Return the shapes of the weights in a safetensors file by name; {} if its header is damaged."""
    try:
        return {name: entry["shape"] for name, entry in _header(file).weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # `weight_faults` reports it
        return {}


def _file_fault(path: Path) -> str | None:
    """Describe what is wrong with a file; return None if nothing is."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(POINTER))
        if begin == POINTER:
            return f"{path} is a git-LFS pointer, not the file itself; fetch it: git lfs pull"
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
            return None
        is_good = _is_complete(path) if path.suffix == ".safetensors" else _is_complete_pickle(path, begin)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        is_good = False
    found = "is not valid JSON" if path.suffix == ".json" else "is truncated or damaged"
    return None if is_good else f"{path} {found} ({path.stat().st_size:,} bytes); fetch it again"


class _Header(NamedTuple):
    """The header of a safetensors file: the listed weights by name, and the header's length in bytes."""

    weights: dict[str, Any]
    length: int


def _header(file: Path) -> _Header:
    """Read the header of a safetensors file: 8 bytes with a length, then JSON of that length."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("the header is longer than the file")
        weights = json.loads(opened.read(length))
    weights.pop("__metadata__", None)
    return _Header(weights, 8 + length)


def _is_complete(file: Path) -> bool:
    header = _header(file)
    ends = [entry["data_offsets"][1] for entry in header.weights.values()]
    return header.length + max(ends, default=0) == file.stat().st_size


def _is_complete_pickle(file: Path, begin: bytes) -> bool:
    """Return whether a torch file is complete: an archive has its index at the end; very old files are not archives."""
    return zipfile.is_zipfile(file) if begin.startswith(b"PK") else bool(begin)
