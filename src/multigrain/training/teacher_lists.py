"""Training tuples whose negatives are lists of documents scored by a teacher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from multigrain.errors import DataError
from multigrain.records import GradedTuple, Negative, Source, identity
from multigrain.training.grade_schedules import LISTED
from multigrain.training.in_batch_false_negatives import texts_of

PERCENTILES = (1, 99)
"""Scores outside these percentiles are clipped (CADET, arXiv 2505.19274): a few outliers would compress the rest."""
REMEMBERED = 1024
"""Number of tuples whose texts stay in memory: a step requests the same tuples several times."""

Documents = NDArray[np.int32]
"""(D,) documents of a list: corpus indices, or -1 for the tuple's positive, -2 for its first negative, and so on."""
TextsAt = Callable[[Sequence[int]], list[str]]
"""Maps corpus indices to texts."""


@dataclass(frozen=True)
class ScoreScale:
    """The linear map from a teacher's scores to [0, 1].

    Attributes:
        lowest: the score that maps to 0, as do lower scores.
        highest: the score that maps to 1, as do higher scores.
        false_negative_above: see `multigrain.training.objectives.Distillation`.
    """

    lowest: float
    highest: float
    false_negative_above: float

    @staticmethod
    def of(scores: NDArray[np.float32], false_negative_above: float) -> "ScoreScale":
        """Return the scale for the scores of a training, (number of scores,).

        Raises:
            DataError: nearly all scores are equal, so the teacher teaches nothing.

        >>> ScoreScale.of(np.arange(101, dtype=np.float32), 0.6)
        ScoreScale(lowest=1.0, highest=99.0, false_negative_above=0.6)
        """
        lowest, highest = np.percentile(scores, PERCENTILES).tolist() if len(scores) else (0.0, 0.0)
        if not highest > lowest:
            found = f"nearly all of its {len(scores)} scores are {lowest:g}"
            raise DataError("training.teacher", f"{found}, so it teaches nothing. Choose another teacher.")
        return ScoreScale(lowest, highest, false_negative_above)

    def possible_answers(self, graded: GradedTuple) -> set[bytes]:
        """Return the negatives, by `identity`, that score high enough to be false negatives."""
        scores = np.array([graded.score or 0.0, *(negative.score for negative in graded.negatives)])
        scaled = ((scores - self.lowest) / (self.highest - self.lowest)).clip(0.0, 1.0)
        high = np.flatnonzero(scaled[1:] > self.false_negative_above * scaled.max())
        return {identity(graded.negatives[place].text) for place in high.tolist()}


def documents_of_list(own: Sequence[str], numbers: Sequence[int], texts: Sequence[str], most: int) -> Documents:
    """Return the documents of a list: the tuple's own texts, then documents of the corpus, each text once.

    Args:
        own: the tuple's positive, then its negatives.
        numbers: corpus indices, best first.
        texts: the texts of these corpus documents.
        most: the maximum number of documents in a list.

    >>> documents_of_list(["positive", "near"], [7, 3, 5], ["Near", "far", "farther"], most=3).tolist()
    [-1, -2, 3]
    """
    known: dict[bytes, int] = {}
    for number, text in enumerate(own):
        known.setdefault(identity(text), -1 - number)
    for number, text in zip(numbers, texts, strict=True):
        known.setdefault(identity(text), number)
    return np.array(list(known.values())[:most], dtype=np.int32)


def texts_in(documents: Documents, graded: GradedTuple, texts_at: TextsAt) -> list[str]:
    """Return the texts of the documents of a tuple's list."""
    own = texts_of(graded)
    found = iter(texts_at(documents[documents >= 0].tolist()))
    return [own[-1 - number] if number < 0 else next(found) for number in documents.tolist()]


class ScoredList(NamedTuple):
    """A query's documents, positive first, and the teacher's scores for them, (D,) each."""

    documents: Documents
    scores: NDArray[np.float32]


class ListedTuples(Sequence[GradedTuple]):
    """The training tuples; where a tuple has a list, the documents of the list replace its negatives.

    A list takes 8 bytes per document. Texts are looked up when a tuple is requested.

    Args:
        tuples: all tuples.
        lists: the lists, by the index of the tuple. Only tuples that training uses have one.
        texts_at: looks up the texts of corpus documents.
    """

    def __init__(self, tuples: Sequence[GradedTuple], lists: Mapping[int, ScoredList], texts_at: TextsAt) -> None:
        self._tuples, self._lists, self._texts_at = tuples, lists, texts_at
        self._listed = lru_cache(REMEMBERED)(self._list_at)

    def __len__(self) -> int:
        return len(self._tuples)

    @overload
    def __getitem__(self, index: int) -> GradedTuple: ...
    @overload
    def __getitem__(self, index: slice) -> list[GradedTuple]: ...
    def __getitem__(self, index: int | slice) -> GradedTuple | list[GradedTuple]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._listed(int(index))

    def _list_at(self, place: int) -> GradedTuple:
        graded, listed = self._tuples[place], self._lists.get(place)
        if listed is None:
            return graded
        negatives = []
        texts, scores = texts_in(listed.documents, graded, self._texts_at), listed.scores.tolist()
        for number, text, score in list(zip(listed.documents.tolist(), texts, scores, strict=True))[1:]:
            source: Source = "mined" if number >= 0 else graded.negatives[-2 - number].source
            negatives.append(Negative(text, LISTED, score, source))
        return replace(graded, negatives=tuple(negatives), score=scores[0])
