"""Choose the documents with the smallest keys for each pair and grade, from a stream of documents.

Letters: P pairs, G grades, K documents kept for each grade, n documents offered at once.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.records import band_of
from multigrain.retrieval.runs_of_equals import ranks_in_runs

Numbers = NDArray[np.int64]
Relevance = NDArray[np.float32]
NONE = np.uint64(2**64 - 1)
"""The key of an empty place."""
FREE = np.uint32(2**32 - 1)
"""The upper half of `NONE`: every key is good enough."""
SIGN = np.uint32(2**31)


class Chosen(NamedTuple):
    """The chosen documents, (C,) each, sorted by pair, grade and key."""

    pair: Numbers
    grade: Numbers
    document: Numbers
    key: Numbers
    relevance: Relevance
    """The relative relevance of each document."""

    def rows(self, rows: Numbers) -> "Chosen":
        """Return the documents in these rows."""
        return Chosen(
            pair=self.pair[rows],
            grade=self.grade[rows],
            document=self.document[rows],
            key=self.key[rows],
            relevance=self.relevance[rows],
        )


class Best(NamedTuple):
    """The best documents of some part of the corpus, (G, P, K) each; see `GradedChoice`."""

    keys: NDArray[np.uint64]
    """The key in the upper half, the document's number in the lower; `NONE` for an empty place."""
    relevance: Relevance


def joined(parts: Sequence[Chosen]) -> Chosen:
    """Concatenate the documents of all parts."""
    return Chosen(
        pair=np.concatenate([part.pair for part in parts]),
        grade=np.concatenate([part.grade for part in parts]),
        document=np.concatenate([part.document for part in parts]),
        key=np.concatenate([part.key for part in parts]),
        relevance=np.concatenate([part.relevance for part in parts]),
    )


class GradedChoice:
    """The documents with the smallest keys so far, for each pair and grade.

    The choice does not depend on the order of the offers or on their size; of equal keys the smaller document number
    wins.

    Args:
        pairs: number of pairs.
        grades: the grades wanted.
        per_grade: K.
        bounds: the four bounds of `multigrain.records.grade_of`.
        nearest: grades whose documents are chosen by relevance, the highest first (`offer_nearest`).
    """

    def __init__(
        self,
        pairs: int,
        grades: Sequence[int],
        per_grade: int,
        bounds: Sequence[float],
        nearest: Collection[int] = (),
    ) -> None:
        self._grades = sorted(set(grades))
        self._bands = [band_of(grade, bounds) for grade in self._grades]
        self._nearest = np.array([grade in nearest for grade in self._grades])
        self._bounds = np.array(bounds, dtype=np.float32)
        self._place_of_band = np.full(len(bounds) + 1, -1)
        self._place_of_band[np.array(self._grades) - 1] = np.arange(len(self._grades))
        self._keys = np.full((len(self._grades), pairs, per_grade), NONE)  # the low half is the document's number
        self._relevance = np.zeros((len(self._grades), pairs, per_grade), dtype=np.float32)

    def offer(self, pairs: Numbers, documents: Numbers, relevance: Relevance, keys: NDArray[np.uint32]) -> None:
        """Let documents compete for the grade of their relevance; all arrays are (offers,)."""
        place = self._places(relevance)
        worst = (self._keys[place, pairs, -1] >> np.uint64(32)).astype(np.uint32)
        wins = np.flatnonzero((place >= 0) & (keys <= worst))  # of equal keys the number decides
        pairs, place, relevance = pairs[wins], place[wins], relevance[wins]
        packed = (keys[wins].astype(np.uint64) << np.uint64(32)) | documents[wins].astype(np.uint64)
        for number in range(len(self._grades)):
            if len(found := np.flatnonzero(place == number)):
                self._take(number, pairs[found], packed[found], relevance[found])

    def _places(self, relevance: Relevance) -> Numbers:
        """Return the place in `self._grades` of each relevance; -1 if its grade is not wanted, or if it is NaN."""
        above = np.zeros(len(relevance), dtype=np.int8)
        for bound in self._bounds:
            above += relevance >= bound
        places = self._place_of_band[above]
        places[np.isnan(relevance)] = -1
        return places

    def offer_grid(self, first: int, documents: Numbers, relevance: Relevance, keys: NDArray[np.uint32]) -> None:
        """Let n documents compete by key for each of several consecutive pairs.

        Three comparisons rule out nearly all of them: the key is too large for every grade that is full, and the
        relevance is in no grade that has room.

        Args:
            first: the number of the first pair.
            documents: (n,).
            relevance: (pairs, n).
            keys: (pairs, n).
        """
        if self._nearest.all():
            return
        rows = slice(first, first + len(relevance))
        worst = (self._keys[:, rows, -1] >> np.uint64(32)).astype(np.uint32)  # (G, pairs)
        worst[self._nearest] = 0  # no key is smaller
        is_free = worst == FREE
        largest = np.where(is_free, 0, worst).max(axis=0).astype(np.uint32)
        below, above = self._free_bands(is_free)
        may_win = (keys < largest[:, None]) | (relevance < below[:, None]) | (relevance >= above[:, None])
        flat = np.flatnonzero(may_win)  # ten times as fast as nonzero
        row = (flat.astype(np.uint32) // np.uint32(relevance.shape[1])).astype(np.int64)
        place = self._places(relevance.reshape(-1)[flat])
        wins = np.flatnonzero((place >= 0) & (keys.reshape(-1)[flat] < worst[place, row]))
        flat, row = flat[wins], row[wins]
        columns = flat - row * relevance.shape[1]
        self.offer(row + first, documents[columns], relevance.reshape(-1)[flat], keys.reshape(-1)[flat])

    def offer_nearest(self, first: int, documents: Numbers, relevance: Relevance) -> None:
        """Let n documents compete by relevance, (pairs, n), for the grades that take the nearest."""
        for place in np.flatnonzero(self._nearest):
            low, high = self._bands[place]
            worst = (self._keys[place, first : first + len(relevance), -1] >> np.uint64(32)).astype(np.uint32)
            least = np.where(worst == FREE, np.float32(low), np.maximum(_relevance_of(worst), np.float32(low)))
            flat = np.flatnonzero(relevance >= least[:, None])
            found = relevance.reshape(-1)[flat]
            is_below = found < high
            flat, found = flat[is_below], found[is_below]
            row, column = np.divmod(flat, relevance.shape[1])
            self.offer(row + first, documents[column], found, _keys_of(found))

    def _free_bands(self, is_free: NDArray[np.bool_]) -> tuple[Relevance, Relevance]:
        """Return two bounds of relevance, (pairs,) each: below the first, or from the second on, some grade has room.

        Grades with room are usually the lowest or the highest ones; those in between count as highest.
        """
        below = np.full(is_free.shape[1], -np.inf, dtype=np.float32)
        above = np.full(is_free.shape[1], np.inf, dtype=np.float32)
        all_lower = np.ones(is_free.shape[1], dtype=bool)
        for place, (low, high) in enumerate(self._bands):
            all_lower &= is_free[place]
            below[all_lower] = high
            rest = is_free[place] & ~all_lower
            above[rest] = np.minimum(above[rest], low)
        return below, above

    def _take(self, place: int, pairs: Numbers, keys: NDArray[np.uint64], relevance: Relevance) -> None:
        """Keep the smallest of the present and the new keys."""
        best, best_relevance = self._keys[place], self._relevance[place]
        touched = np.unique(pairs)
        pairs = np.append(pairs, np.repeat(touched, best.shape[1]))
        keys = np.append(keys, best[touched].ravel())
        relevance = np.append(relevance, best_relevance[touched].ravel())
        order = np.lexsort((keys, pairs))
        pairs = pairs[order]
        rank = ranks_in_runs(pairs)
        kept = rank < best.shape[1]
        best[pairs[kept], rank[kept]] = keys[order][kept]
        best_relevance[pairs[kept], rank[kept]] = relevance[order][kept]

    @property
    def best(self) -> Best:
        """The documents kept so far."""
        return Best(self._keys, self._relevance)

    def merge(self, other: Best) -> None:
        """Let the documents of another part of the corpus compete, as if they had been offered here."""
        keys = np.concatenate([self._keys, other.keys], axis=2)
        relevance = np.concatenate([self._relevance, other.relevance], axis=2)
        first = np.argsort(keys, axis=2, kind="stable")[:, :, : self._keys.shape[2]]
        self._keys = np.take_along_axis(keys, first, axis=2)
        self._relevance = np.take_along_axis(relevance, first, axis=2)

    def chosen(self) -> Chosen:
        """Return all documents kept."""
        by_pair = self._keys.transpose(1, 0, 2)
        pair, place, _ = np.nonzero(by_pair != NONE)
        keys = by_pair[by_pair != NONE]
        relevance: Any = self._relevance.transpose(1, 0, 2)[by_pair != NONE]
        return Chosen(
            pair=pair,
            grade=np.array(self._grades)[place],
            document=(keys & np.uint64(0xFFFFFFFF)).astype(np.int64),
            key=(keys >> np.uint64(32)).astype(np.int64),
            relevance=relevance,
        )


def _keys_of(relevance: Relevance) -> NDArray[np.uint32]:
    """Return keys that fall as relevance rises.

    Read as whole numbers, the bits of floats rise with positive floats and fall with negative ones.
    """
    bits = (relevance + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    rising = np.where(bits & SIGN, ~bits, bits | SIGN)
    keys: NDArray[np.uint32] = ~rising
    return keys


def _relevance_of(keys: NDArray[np.uint32]) -> Relevance:
    """Return the relevance from keys that `_keys_of` made."""
    rising = ~keys
    bits = np.where(rising & SIGN, rising ^ SIGN, ~rising)
    relevance: Relevance = bits.view(np.float32)
    return relevance
