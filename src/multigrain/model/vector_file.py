"""A file of vectors, found by the texts they belong to, that grows and never holds more in memory than is asked for."""

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
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from multigrain.files import write_atomic
from multigrain.model.roles import Vectors

KEY_BYTES = 16
DTYPE = "float16"
"""Of the vectors in the file: its rounding moves a cosine by 1e-5, and bfloat16's by more."""
READ_AT_ONCE = 1 << 22
"""Bytes of records that are read at once when a file is opened."""
ROW_BITS = np.uint64(32)
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

    A line of JSON says which model, dimension d and dtype; then come records of 16 bytes of key and d float16, so no
    number may be above 65,504. They are only ever appended, so a kill -9 costs at most the record that was being
    written, which the next append writes over. In memory are 8 bytes for each record, and of the vectors those that
    one call of `read` asks for.

    A file of another model or dtype, or a damaged one, counts as absent, and is replaced with the first append. Where
    the folder may be read but not written, what is appended goes to a temporary copy.

    Args:
        path: the file; its folder is made when needed.
        model_id: whatever tells this model from others.
    """

    def __init__(self, path: Path, model_id: str) -> None:
        self._path, self._model_id = path, model_id
        self._index = _Index()
        # Kept open: if another process replaces the file, this one goes on with its own.
        self._file: IO[bytes] | None = None
        self._header, self._record = 0, _record(0)
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._open(path)

    def rows_of(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the row of each key, (number of keys,), for `read`; -1 where it is not in the file."""
        if self._file is None:
            return np.full(len(keys), -1, dtype=np.int64)
        return self._index.rows_of(_numbers(keys), self._records()["key"])

    def read(self, rows: NDArray[np.int64]) -> Vectors:
        """Return (number of rows, dimension) vectors, in the order of the rows.

        Raises:
            KeyError: a row is -1: its key is not in the file.
        """
        if not len(rows):
            return np.empty((0, 0), dtype=np.float32)
        if rows.min() < 0:
            raise KeyError("a key is not in the file")
        vectors: Vectors = self._records()["vector"][rows].astype(np.float32)
        return vectors

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
            file.seek(self._header + first * self._record.itemsize)
            file.truncate()
            file.write(records.tobytes())
            file.flush()
        self._index.add(_words(records["key"], first))

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
        if (header["model"], header["dtype"]) != (self._model_id, DTYPE) or not line.endswith(b"\n"):
            raise ValueError(line)
        self._file, self._header, self._record = file, len(line), _record(header["dimension"])
        self._index.add(self._all_words())

    def _all_words(self) -> NDArray[np.uint64]:
        """Return the words of all complete records; the vectors are read past, not mapped, so they take no memory."""
        assert self._file is not None
        self._file.seek(self._header)
        buffer = np.empty(1 + READ_AT_ONCE // self._record.itemsize, self._record)
        words = np.empty(self._count(), dtype=np.uint64)
        for start in range(0, len(words), len(buffer)):
            portion = buffer[: len(words) - start]
            self._file.readinto(portion.view(np.uint8))  # type: ignore[attr-defined]
            words[start : start + len(portion)] = _words(portion["key"], start)
        return words

    def _records(self) -> NDArray[Any]:
        """Return all complete records, mapped for as long as the array is held: then its pages are given back."""
        assert self._file is not None
        count = self._count()
        if not count:
            return np.empty(0, self._record)
        mapped = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, self._record, count, self._header)

    def _count(self) -> int:
        """Count the complete records in the file."""
        assert self._file is not None
        return (os.fstat(self._file.fileno()).st_size - self._header) // self._record.itemsize

    def _writable(self, dimension: int) -> np.dtype[Any]:
        """Make sure that there is a file to append to; return the type of its records."""
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
            self._header, self._record = len(header), _record(dimension)
        return self._record


class _Index:
    """The rows of keys, found by the first half of a key's first number, and then by the whole key.

    A word of 64 bits holds that half above the number of the row. Words lie in sorted runs, each at least twice as
    long as the next, so that to add n words a few at a time costs n log n; of equal keys the oldest row is found.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, words: NDArray[np.uint64]) -> None:
        """Add words, which are sorted in place."""
        if not len(words):
            return
        words.sort()
        self._runs.append(words)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            both = np.concatenate([self._runs.pop(-2), self._runs.pop()])
            both.sort(kind="stable")  # two sorted runs are merged
            self._runs.append(both)

    def rows_of(self, keys: NDArray[np.uint64], stored: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows, (n,), in which the stored keys, (records, 2), are these, (n, 2); -1 where none is."""
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
    """Return the words of keys, (n, 2), whose rows begin with this one."""
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
    """Hold the file alone: two processes may append to one file (a search beside a run)."""
    assert file is not None
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
