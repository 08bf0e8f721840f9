"""A file of vectors, found by the texts they belong to, that grows and never holds more in memory than is asked for."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from multigrain.files import write_atomic
from multigrain.model.roles import Vectors

KEY_BYTES = 16
KEYS_AT_ONCE = 8192
"""Records whose keys are read at once."""
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors by which a system says that a file may not be written."""


def key_of(text: str, prompt: str = "") -> bytes:
    """Return the 16 bytes by which the vector of a text, encoded with a prompt, is found."""
    digest = hashlib.blake2b(text.encode(), digest_size=KEY_BYTES)
    if prompt:
        digest.update(b"\xff" + prompt.encode())  # a byte that UTF-8 has not
    return digest.digest()


class VectorFile:
    """Vectors of one model, by key.

    A line of JSON says which model and dimension d; then come records of 16 bytes of key and d float32. They are
    only ever appended, so a kill -9 costs at most the record that was being written, which the next append writes
    over. In memory are the keys (about 170 bytes each), and of the vectors those that one call of `read` asks for.

    A file of another model, or a damaged one, counts as absent, and is replaced with the first append. Where the
    folder may be read but not written, what is appended goes to a temporary copy.

    Args:
        path: the file; its folder is made when needed.
        model_id: whatever tells this model from others.
    """

    def __init__(self, path: Path, model_id: str) -> None:
        self._path, self._model_id = path, model_id
        self._rows: dict[bytes, int] = {}
        # Kept open: if another process replaces the file, this one goes on with its own.
        self._file: IO[bytes] | None = None
        self._header, self._record = 0, _record(0)
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._open(path)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def read(self, keys: Sequence[bytes]) -> Vectors:
        """Return (number of keys, dimension) vectors, in the order of the keys.

        Raises:
            KeyError: a key is not in the file.
        """
        rows = [self._rows[key] for key in keys]
        if not rows:
            return np.empty((0, 0), dtype=np.float32)
        # Mapped for this call alone: the pages it touched are given back.
        records: Any = np.memmap(cast(BinaryIO, self._file), self._record, "r", self._header, self._count())
        return np.ascontiguousarray(records["vector"][rows], dtype=np.float32)

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors of new keys.

        Raises:
            OSError: the disk is full.
        """
        records = np.empty(len(keys), self._writable(vectors.shape[1]))
        records["key"] = np.frombuffer(b"".join(keys), dtype=f"V{KEY_BYTES}")
        records["vector"] = vectors
        with _locked(self._file) as file:
            first = self._count()
            file.seek(self._header + first * self._record.itemsize)
            file.truncate()
            file.write(records.tobytes())
            file.flush()
        self._rows.update(zip(keys, range(first, first + len(keys)), strict=True))

    def _open(self, path: Path) -> None:
        """Take over the file at the path, if it is this model's.

        Raises:
            OSError, ValueError, KeyError, TypeError: it is not.
        """
        file: IO[bytes]
        try:
            file = path.open("r+b")
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            file = path.open("rb")
        weakref.finalize(self, file.close)
        line = file.readline()
        header: dict[str, Any] = json.loads(line)
        if header["model"] != self._model_id or not line.endswith(b"\n"):
            raise ValueError(line)
        self._file, self._header, self._record = file, len(line), _record(header["dimension"])
        for row, key in enumerate(self._keys()):
            self._rows[key] = row

    def _keys(self) -> Iterator[bytes]:
        """Yield the keys of all complete records; the vectors are read past, not mapped, so they take no memory."""
        assert self._file is not None
        left = self._count()
        while left:
            records = np.fromfile(self._file, self._record, min(left, KEYS_AT_ONCE))
            yield from (key.tobytes() for key in records["key"])
            left -= len(records)

    def _count(self) -> int:
        """Count the complete records in the file."""
        assert self._file is not None
        return (os.fstat(self._file.fileno()).st_size - self._header) // self._record.itemsize

    def _writable(self, dimension: int) -> np.dtype[Any]:
        """Make sure that there is a file to append to; return the type of its records."""
        header = json.dumps({"model": self._model_id, "dimension": dimension}).encode() + b"\n"
        try:
            if self._file is None:
                write_atomic(self._path, header)
                self._open(self._path)
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
        if self._file is None or not self._file.writable():
            self._file = _temporary_copy(self._file, header)
            weakref.finalize(self, self._file.close)
            self._header, self._record = len(header), _record(dimension)
        return self._record


def _record(dimension: int) -> np.dtype[Any]:
    return np.dtype([("key", f"V{KEY_BYTES}"), ("vector", "<f4", (dimension,))])


def _temporary_copy(file: IO[bytes] | None, header: bytes) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the object)
    if file is None:
        copy.write(header)
    else:
        file.seek(0)
        shutil.copyfileobj(file, copy)
    copy.flush()
    return copy


@contextmanager
def _locked(file: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """Hold the file alone: two processes may append to one file (a search beside a run)."""
    assert file is not None
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
