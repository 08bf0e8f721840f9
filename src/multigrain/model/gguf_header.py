"""The header of a GGUF file, read far enough to see that the file is complete. No torch.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Four letters, a version, the numbers of tensors and of
settings; then each setting (name, kind, value) and each tensor (name, dimensions, kind, offset).
"""

import struct
from pathlib import Path
from typing import BinaryIO

VERSIONS = (2, 3)
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its kind; texts (8) and lists (9) say their own."""
TEXT, LIST = 8, 9
GARBAGE = (struct.error, KeyError, ValueError, OverflowError, OSError, RecursionError)
"""What reading the header of a damaged GGUF file raises."""


def gguf_fault(path: Path) -> str | None:
    """Say what is wrong with a GGUF file, as far as its header tells; None if nothing."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return "is no GGUF file: it does not begin as one"
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
            return "is cut off or damaged; fetch it again"
    # The last tensor begins within the file.
    return None if last < path.stat().st_size else "is cut off; fetch it again"


def _number(file: BinaryIO, form: str) -> int:
    """Read a number in a format of `struct`: "<I" has 4 bytes, "<Q" 8."""
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _skip(file: BinaryIO, kind: int) -> None:
    """Move the file to the end of a value of this kind."""
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
    """Read the entry of a tensor, and return where it begins, in bytes from the first tensor."""
    _skip(file, TEXT)
    dimensions = _number(file, "<I")
    file.seek(8 * dimensions + 4, 1)
    return _number(file, "<Q")
