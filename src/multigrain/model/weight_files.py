"""Are the files that loading a model reads there and whole, as far as their sizes and heads tell? No torch."""

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from multigrain.model.files import settings_of

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Where weights are; loading takes the first that is there."""
SETTINGS = (
    *("modules.json", "config.json", "adapter_config.json", "config_sentence_transformers.json"),
    *("sentence_*_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
POINTER = b"version https://git-lfs"
GGUF_VERSIONS = (2, 3)
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its kind; texts (8) and lists (9) say their own."""
TEXT, LIST = 8, 9
GARBAGE = (struct.error, KeyError, ValueError, OverflowError, OSError, RecursionError)
"""What reading the head of a damaged GGUF file raises."""


def settings_faults(folder: Path) -> Iterator[str]:
    """Files of settings at the top of a folder that nobody can read."""
    paths = sorted({path for pattern in SETTINGS for path in folder.glob(pattern)})
    yield from filter(None, map(_damage, paths))


def weight_faults(folder: Path, is_whole: bool) -> Iterator[str]:
    """What is wrong with the weights in a folder.

    Args:
        folder: of a model, or of one of its modules.
        is_whole: whether what is not there will not come any more.
    """
    names = ADAPTER_WEIGHTS if (folder / "adapter_config.json").is_file() else WEIGHTS
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        if is_whole:
            yield f"there is no file of its weights in {folder} ({', '.join(names)})"
        return
    files = [first]
    if first.suffix == ".json" and not _damage(first):
        files = sorted(
            {folder / str(name) for name in (settings_of(folder, first.name).get("weight_map") or {}).values()}
        )
        if not files:
            yield f"{first} names no files of weights; fetch it again"
    for file in files:
        if file.is_file() and (fault := _damage(file)):
            yield fault
        elif is_whole and not file.is_file():
            yield f"{file} is not there, which {first.name} names; fetch it"


def shapes_in(file: Path) -> dict[str, list[int]]:
    """The shapes of the weights in a file of safetensors by their names; none where its head is damaged."""
    try:
        return {name: entry["shape"] for name, entry in _head(file)[0].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # `weight_faults` says what is wrong
        return {}


def _damage(path: Path) -> str | None:
    """What is wrong with a file, in words; None if nothing shows."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(POINTER))
        if begin == POINTER:
            return f"{path} is a pointer of git-LFS, not the file itself; fetch it: git lfs pull"
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
            return None
        is_good = _is_whole(path) if path.suffix == ".safetensors" else _is_whole_pickle(path, begin)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        is_good = False
    found = "is no JSON" if path.suffix == ".json" else "is cut off or damaged"
    return None if is_good else f"{path} {found} ({path.stat().st_size:,} bytes); fetch it again"


def _head(file: Path) -> tuple[dict[str, Any], int]:
    """What the head of a file of safetensors says of its weights, and the bytes that the head takes."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("the head is longer than the file")
        head = json.loads(opened.read(length))
    head.pop("__metadata__", None)
    return head, 8 + length


def _is_whole(file: Path) -> bool:
    head, size = _head(file)
    return size + max((entry["data_offsets"][1] for entry in head.values()), default=0) == file.stat().st_size


def _is_whole_pickle(file: Path, begin: bytes) -> bool:
    """Torch writes an archive, whose list of contents is at its end; very old releases wrote none."""
    return zipfile.is_zipfile(file) if begin.startswith(b"PK") else bool(begin)


def gguf_fault(path: Path) -> str | None:
    """What is wrong with a GGUF file, as far as its head tells; None if nothing."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return "is no GGUF file: it does not begin as one"
        try:
            if (version := _number(file, "<I")) not in GGUF_VERSIONS:
                return f"is a GGUF file of version {version}; wanted version 2 or 3"
            tensors, settings = _number(file, "<Q"), _number(file, "<Q")
            for _ in range(settings):
                _skip(file, TEXT)
                _skip(file, _number(file, "<I"))
            end = max((_tensor(file) for _ in range(tensors)), default=0) + file.tell()
        except GARBAGE:
            return "is cut off or damaged; fetch it again"
    # The last tensor begins within the file.
    return None if end < path.stat().st_size else "is cut off; fetch it again"


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _skip(file: BinaryIO, kind: int) -> None:
    """Go behind a value."""
    if kind == TEXT:
        file.seek(_number(file, "<Q"), 1)
    elif kind == LIST:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner in GGUF_SIZES:
            file.seek(GGUF_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(GGUF_SIZES[kind], 1)


def _tensor(file: BinaryIO) -> int:
    """Where the tensor begins, counted from where all do."""
    _skip(file, TEXT)
    dimensions = _number(file, "<I")
    file.seek(8 * dimensions + 4, 1)
    return _number(file, "<Q")
