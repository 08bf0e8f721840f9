"""Records in a temporary file, read one at a time."""

import marshal
import os
import tempfile
import weakref
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, compress
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from multigrain.records import Candidate, Document, Pair

AT_ONCE = 2**16
"""Bytes of consecutive pieces that are read at once."""
Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]
R = TypeVar("R", bound=Pair | Document | Candidate)


class Spool:
    """Pieces of bytes in a temporary file; memory holds only the offset of each (8 bytes).

    The file has no name, so nothing is left of it even if the process is killed.

    Args:
        folder: folder of the file; by default the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as the object)
        weakref.finalize(self, self._file.close)
        self._starts = array("Q", [0])
        self._is_flushed = True

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, content: bytes) -> None:
        """Add a piece.

        Raises:
            OSError: the disk is full.
        """
        self._file.write(content)
        self._starts.append(self._starts[-1] + len(content))
        self._is_flushed = False

    def __getitem__(self, number: int) -> bytes:
        return self._read(self._starts[number], self._starts[number + 1])

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the pieces in order; read several at once, unless they are large."""
        first = 0
        while first < len(self):
            start = self._starts[first]
            last = max(first + 1, bisect_right(self._starts, start + AT_ONCE, lo=first) - 1)
            content = memoryview(self._read(start, self._starts[last]))
            for number in range(first, last):
                yield content[self._starts[number] - start : self._starts[number + 1] - start]
            first = last

    def _read(self, start: int, end: int) -> bytes:
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
        return os.pread(self._file.fileno(), end - start, start)


class Records(Sequence[R], Generic[R]):
    """A sequence of records that are read when they are asked for; a slice is a list."""

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return [self._at(number) for number in found]
        return self._at(found)

    @abstractmethod
    def _at(self, number: int) -> R:
        """Return the record of this number, from 0."""


class RecordFile(Records[R]):
    """Records of one class in a temporary file, in the order in which they were appended.

    Args:
        kind: the class.
        records: the first records.
        folder: folder of the file, see `Spool`.
    """

    def __init__(self, kind: type[R], records: Iterable[R] = (), folder: Path | None = None) -> None:
        self._kind = kind
        self._spool = Spool(folder)
        for record in records:
            self.append(record)

    def append(self, record: R) -> None:
        """Add a record.

        Raises:
            OSError: the disk is full.
        """
        self._spool.append(marshal.dumps(tuple([getattr(record, name) for name in self._kind.__slots__])))

    def __len__(self) -> int:
        return len(self._spool)

    def __iter__(self) -> Iterator[R]:
        return map(self._record, self._spool)

    def _at(self, number: int) -> R:
        return self._record(self._spool[number])

    def _record(self, content: bytes | memoryview) -> R:
        fields = marshal.loads(content)  # noqa: S302 (we wrote it, and no one else has the file)
        return self._kind(*fields)


class Some(Records[R]):
    """A selection of the records of a sequence, by their numbers.

    Args:
        records: the sequence.
        numbers: (selected records,) places in the sequence.
    """

    def __init__(self, records: Sequence[R], numbers: Numbers) -> None:
        self._records = records
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[R]:
        are_many = len(self._numbers) * 2 > len(self._records)
        if are_many and (np.diff(self._numbers) > 0).all():  # then it is faster to read them all in order
            wanted = np.zeros(len(self._records), dtype=np.uint8)
            wanted[self._numbers] = 1
            return compress(self._records, wanted.tobytes())
        return (self._records[number] for number in self._numbers.tolist())

    def _at(self, number: int) -> R:
        return self._records[int(self._numbers[number])]


class Joined(Records[R]):
    """Several sequences of records, one after another; they stay where they are."""

    def __init__(self, parts: Sequence[Sequence[R]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[R]:
        return chain.from_iterable(self._parts)

    def _at(self, number: int) -> R:
        part = bisect_right(self._ends, number)
        return self._parts[part][number - (self._ends[part - 1] if part else 0)]


class Changed(Records[R]):
    """The records of a sequence, each changed by a function when it is read."""

    def __init__(self, records: Sequence[R], change: Callable[[R], R]) -> None:
        self._records, self._change = records, change

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[R]:
        return map(self._change, self._records)

    def _at(self, number: int) -> R:
        return self._change(self._records[number])


def take(records: Sequence[R], chosen: NDArray[np.bool_] | Numbers | Sequence[int]) -> Sequence[R]:
    """Return the records of a mask or of some numbers; they stay in the file."""
    places = np.asarray(chosen)
    numbers = np.flatnonzero(places) if places.dtype == bool else places.astype(np.int64)
    if isinstance(records, Some):
        return Some(records._records, records._numbers[numbers])
    return Some(records, numbers)
