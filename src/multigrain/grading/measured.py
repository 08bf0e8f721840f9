"""Candidates of some pairs with the judges' measurements, column by column.

A candidate is a text (written, or given with its pair) or a reference to a document (mined). The columns treat both
alike, so that thousands are graded at once; `text` and `row` point back to the candidate itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """C candidates with the measurements of J judges, in ascending order of pair.

    Attributes:
        pair: (C,) place of the candidate's pair among those that are graded together.
        text: (C,) place among the text candidates; -1 for a mined one.
        row: (C,) row of the mined candidates; -1 for a text.
        asked: (C,) the grade that the candidate was written or mined for.
        is_written: (C,) whether a language model wrote it.
        is_kept: (C,) whether it keeps the grade that it came with.
        relevance: (C, J) relative relevance r = s(q, c) / s(q, p), by each judge.
        grade: (C,) the grade that it gets.
        length: (C,) log(words / words of the positive).
        answers: (C,) whether a language model says that it answers the query.
    """

    pair: Numbers
    text: Numbers
    row: Numbers
    asked: Numbers
    is_written: Flags
    is_kept: Flags
    relevance: NDArray[np.float64]
    grade: Numbers
    length: NDArray[np.float64]
    answers: Flags

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, rows: Any) -> "Measured":
        """Return some candidates, by an array of numbers or flags."""
        return Measured(*(getattr(self, field.name)[rows] for field in fields(self)))


def by_pair(parts: Sequence[Measured]) -> Measured:
    """Merge the parts in ascending order of pair; within a pair, earlier parts come first."""
    columns = [np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Measured)]
    whole = Measured(*columns)
    return whole[np.argsort(whole.pair, kind="stable")]


def nothing_measured(judges: int = 1) -> Measured:
    """Return a `Measured` without candidates."""
    numbers, flags = np.empty(0, np.int64), np.empty(0, bool)
    shares = np.empty((0, judges))
    return Measured(
        pair=numbers,
        text=numbers,
        row=numbers,
        asked=numbers,
        is_written=flags,
        is_kept=flags,
        relevance=shares,
        grade=numbers,
        length=shares[:, 0],
        answers=flags,
    )
