"""An append-only file of vectors, looked up by text, that loads only the requested vectors into memory."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from multigrain.files import write_atomic
from multigrain.model.roles import Vectors

KEY_BYTES = 16
DTYPE = "float16"
"""Type of the vectors in the file. Its rounding changes a cosine by 1e-5; bfloat16 would change it by more."""
READ_AT_ONCE = 1 << 22
"""Bytes of records read at once when a file is opened."""
ROW_BITS = np.uint64(32)
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers that mean a file may not be written."""


def key_of(text: str, prompt: str = "") -> bytes:
    """Return the 16-byte key of the vector of a text that is encoded with a prompt."""
    digest = hashlib.blake2b(text.encode(), digest_size=KEY_BYTES)
    if prompt:
        digest.update(b"\xff" + prompt.encode())  # a byte that never occurs in UTF-8
    return digest.digest()


@dataclass(frozen=True)
class StoredVectors:
    """A reference to vectors in a file, which any process that sees the file can read."""

    path: Path
    header: bytes
    """The first line of the file."""
    dimension: int
    rows: NDArray[np.int64]
    """(n,) the rows of the vectors."""

    def read(self) -> Vectors:
        """Return the vectors, scaled to length 1, (n, dimension).

        Raises:
            OSError: the file cannot be read, is another one, or ends before the last row.
        """
        with self.path.open("rb") as file:
            if file.readline() != self.header:
                raise OSError(errno.ESTALE, "is the file of another model", str(self.path))
            if not len(self.rows):
                return np.empty((0, self.dimension), dtype=np.float32)
            record = _record(self.dimension)
            count = (os.fstat(file.fileno()).st_size - len(self.header)) // record.itemsize
            if count <= self.rows.max():
                raise OSError(errno.ESTALE, f"ends before row {self.rows.max()}", str(self.path))
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            records = np.frombuffer(mapped, record, count, len(self.header))
            return unit(records["vector"][self.rows].astype(np.float32))


class VectorFile:
    """A file of one model's vectors, by key.

    The file starts with a line of JSON that names the model, the dimension d and the dtype. Records follow: a 16-byte
    key and d float16 numbers, so no number may exceed 65,504. Records are only appended: a kill -9 loses at most an
    incomplete record, which the next append overwrites. Memory holds 8 bytes per record, and the vectors requested by
    one call of `read`.

    A file of another model or dtype, or a damaged one, counts as absent, and the first append replaces it. If the
    folder is read-only, appended records go to a temporary copy.

    Args:
        path: the file; its folder is created when needed.
        model_id: an identifier of the model.
    """

    def __init__(self, path: Path, model_id: str) -> None:
        self._path, self._model_id = path, model_id
        self._index = _Index()
        # Kept open: if another process replaces the file, this one goes on with its own.
        self._file: IO[bytes] | None = None
        self._header_line, self._record = b"", _record(0)
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._open(path)

    def rows_of(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the row of each key, (number of keys,), for `read`; -1 for keys not in the file."""
        if self._file is None:
            return np.full(len(keys), -1, dtype=np.int64)
        return self._index.rows_of(_numbers(keys), self._records()["key"])

    def read(self, rows: NDArray[np.int64]) -> Vectors:
        """Return the vectors of the rows, (number of rows, dimension), in order.

        Raises:
            KeyError: a row is -1, so its key is not in the file.
        """
        if not len(rows):
            return np.empty((0, 0), dtype=np.float32)
        if rows.min() < 0:
            raise KeyError("a key is not in the file")
        vectors: Vectors = self._records()["vector"][rows].astype(np.float32)
        return vectors

    def stored(self, keys: Sequence[bytes]) -> StoredVectors:
        """Return a reference to the vectors of these keys.

        Raises:
            KeyError: a key is not in the file.
        """
        rows = self.rows_of(keys)
        if self._file is None or (len(rows) and rows.min() < 0):
            raise KeyError("a key is not in the file")
        os.fsync(self._file.fileno())  # other machines must see what was appended
        dimension: int = self._record["vector"].shape[0]
        return StoredVectors(self._path.absolute(), self._header_line, dimension, rows)

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors of new keys.

        Raises:
            OSError: the disk is full.
        """
        records = np.empty(len(keys), self._writable(vectors.shape[1]))
        records["key"] = _numbers(keys)
        records["vector"] = vectors
        with _locked(self._file) as file:
            first = self._count()
            file.seek(len(self._header_line) + first * self._record.itemsize)
            file.truncate()
            file.write(records.tobytes())
            file.flush()
        self._index.add(_words(records["key"], first))

    def _open(self, path: Path) -> None:
        """Open the file at the path, if it belongs to this model.

        Raises:
            OSError, ValueError, KeyError, TypeError: the file is absent, damaged, or of another model.
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
        if (header["model"], header["dtype"]) != (self._model_id, DTYPE) or not line.endswith(b"\n"):
            raise ValueError(line)
        self._file, self._header_line, self._record = file, line, _record(header["dimension"])
        self._index.add(self._all_words())

    def _all_words(self) -> NDArray[np.uint64]:
        """Return the words of all complete records; vectors are read in passing, not mapped, so they take no memory."""
        assert self._file is not None
        self._file.seek(len(self._header_line))
        buffer = np.empty(1 + READ_AT_ONCE // self._record.itemsize, self._record)
        words = np.empty(self._count(), dtype=np.uint64)
        for start in range(0, len(words), len(buffer)):
            portion = buffer[: len(words) - start]
            self._file.readinto(portion.view(np.uint8))  # type: ignore[attr-defined]
            words[start : start + len(portion)] = _words(portion["key"], start)
        return words

    def _records(self) -> NDArray[Any]:
        """Return all complete records, memory-mapped; the pages are freed with the array."""
        assert self._file is not None
        count = self._count()
        if not count:
            return np.empty(0, self._record)
        mapped = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, self._record, count, len(self._header_line))

    def _count(self) -> int:
        """Count the complete records in the file."""
        assert self._file is not None
        return (os.fstat(self._file.fileno()).st_size - len(self._header_line)) // self._record.itemsize

    def _writable(self, dimension: int) -> np.dtype[Any]:
        """Make sure that there is a writable file; return the type of its records."""
        header = json.dumps({"model": self._model_id, "dimension": dimension, "dtype": DTYPE}).encode() + b"\n"
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
            self._header_line, self._record = header, _record(dimension)
        return self._record


def unit(vectors: Vectors) -> Vectors:
    """Scale vectors (n, d) to length 1 in place, because rounding to float16 changes their length by up to 1e-4."""
    lengths = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return vectors


class _Index:
    """An index from keys to rows: a lookup compares the upper half of a key's first number, then the whole key.

    A 64-bit word combines that half with the number of the row. Words are in sorted runs, each at least twice as long
    as the next, so adding n words a few at a time costs n log n. For equal keys, the oldest row is found.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, words: NDArray[np.uint64]) -> None:
        """Add words; this sorts the given array in place."""
        if not len(words):
            return
        words.sort()
        self._runs.append(words)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            both = np.concatenate([self._runs.pop(-2), self._runs.pop()])
            both.sort(kind="stable")  # a stable sort merges two sorted runs
            self._runs.append(both)

    def rows_of(self, keys: NDArray[np.uint64], stored: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows (n,) of the keys (n, 2) among the stored keys (records, 2); -1 for absent keys."""
        rows = np.full(len(keys), -1, dtype=np.int64)
        halves = keys[:, 0] >> ROW_BITS
        for run in self._runs:
            asked = np.flatnonzero(rows < 0)
            places = np.searchsorted(run, halves[asked] << ROW_BITS)
            while len(asked):
                words = run[np.minimum(places, len(run) - 1)]
                alike = (places < len(run)) & (words >> ROW_BITS == halves[asked])
                asked, places, words = asked[alike], places[alike], words[alike]
                found = (words << ROW_BITS >> ROW_BITS).astype(np.int64)
                same = (stored[found] == keys[asked]).all(axis=1)
                rows[asked[same]] = found[same]
                asked, places = asked[~same], places[~same] + 1
        return rows


def _numbers(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """Return keys as pairs of numbers, (n, 2)."""
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)


def _words(keys: NDArray[np.uint64], first: int) -> NDArray[np.uint64]:
    """Return the words of keys (n, 2) in consecutive rows, starting with `first`."""
    rows = np.arange(first, first + len(keys), dtype=np.uint64)
    return (keys[:, 0] >> ROW_BITS << ROW_BITS) | rows


def _record(dimension: int) -> np.dtype[Any]:
    return np.dtype([("key", "<u8", (2,)), ("vector", "<f2", (dimension,))])


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
    """Lock the file, because two processes may append to it (a search during a run)."""
    assert file is not None
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
