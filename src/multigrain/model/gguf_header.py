"""Read the header of a GGUF file, to check that the file is complete. Does not import torch.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Four letters, a version, and the numbers of tensors and
settings; then each setting (name, kind, value) and each tensor (name, dimensions, kind, offset).
"""

import struct
from pathlib import Path
from typing import BinaryIO

VERSIONS = (2, 3)
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its kind; texts (8) and lists (9) store their length."""
TEXT, LIST = 8, 9
GARBAGE = (struct.error, KeyError, ValueError, OverflowError, OSError, RecursionError)
"""Errors raised by reading the header of a damaged GGUF file."""


def gguf_fault(path: Path) -> str | None:
    """Describe what is wrong with a GGUF file, as far as its header tells; return None if nothing is."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return "is not a GGUF file: it does not start with GGUF"
        try:
            if (version := _number(file, "<I")) not in VERSIONS:
                return f"is a GGUF file of version {version}; wanted version 2 or 3"
            tensors = _number(file, "<Q")
            settings = _number(file, "<Q")
            for _ in range(settings):
                _skip(file, TEXT)
                _skip(file, _number(file, "<I"))
            offsets = [_tensor_offset(file) for _ in range(tensors)]
            last = max(offsets, default=0) + file.tell()
        except GARBAGE:
            return "is truncated or damaged; fetch it again"
    # In a complete file, the last tensor starts within the file.
    return None if last < path.stat().st_size else "is truncated; fetch it again"


def _number(file: BinaryIO, form: str) -> int:
    """Read a number in a format of `struct`: "<I" has 4 bytes, "<Q" 8."""
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _skip(file: BinaryIO, kind: int) -> None:
    """Skip a value of this kind."""
    if kind == TEXT:
        file.seek(_number(file, "<Q"), 1)
    elif kind == LIST:
        inner = _number(file, "<I")
        count = _number(file, "<Q")
        if inner in VALUE_BYTES:
            file.seek(VALUE_BYTES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(VALUE_BYTES[kind], 1)


def _tensor_offset(file: BinaryIO) -> int:
    """Read the entry of a tensor, and return its offset in bytes from the first tensor."""
    _skip(file, TEXT)
    dimensions = _number(file, "<I")
    file.seek(8 * dimensions + 4, 1)
    return _number(file, "<Q")
