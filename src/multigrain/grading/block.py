"""The state of some pairs and their candidates while they are graded together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.data.mined_candidates import DroppedMined, Mined
from multigrain.grading.measured import Measured, Numbers, nothing_measured
from multigrain.grading.near_copies import Signatures
from multigrain.records import Candidate, Dropped, GradedTuple, Negative, Pair


@dataclass(frozen=True)
class Graded:
    """The result: tuples, dropped candidates with the reasons, and the measurements of all judged candidates."""

    tuples: list[GradedTuple] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    """The dropped texts, in the order of the pairs."""
    dropped_mined: list[DroppedMined] = field(default_factory=list)
    measured: Measured = field(default_factory=nothing_measured)
    """Every candidate that broke no rule."""


class Asked(NamedTuple):
    """What a judge is asked about in a block."""

    positives: list[int]
    """Places of the pairs whose positives are judged."""
    rows: Numbers
    """Rows of the mined candidates that are judged."""
    texts: list[tuple[Pair, str]]
    """The positives, all text candidates, and the mined candidates, each with its pair."""


class Block:
    """P pairs with their candidates: those dropped, and the measurements of the others.

    Attributes:
        pairs: the P pairs.
        mined: the documents mined for them; `pair` is the place of the pair in `pairs`.
        texts: the text candidates, in the order of the pairs.
        places: the place of the pair of each text.
        dropped: the dropped texts, in the order of the rules.
        own: (P, J) the judges' scores of the positives.
        measured: all candidates that broke no rule.
    """

    def __init__(self, pairs: Sequence[Pair], mined: Mined) -> None:
        self.pairs, self.mined = pairs, mined
        self.texts: list[Candidate] = []
        self.places: list[int] = []
        self.dropped: list[Dropped] = []
        self.own: NDArray[np.float64] = np.empty((len(pairs), 0))
        self.measured: Measured
        self._dropped_mined: list[DroppedMined] = []

    def add_texts(self, place: int, texts: Sequence[Candidate]) -> None:
        """Add the text candidates of the pair at `place`; pairs come in order."""
        self.texts += texts
        self.places += [place] * len(texts)

    def pair_of(self, text: int) -> Pair:
        """Return the pair of a text candidate."""
        return self.pairs[self.places[text]]

    def drop_texts(self, values: Mapping[int, float], rule: str) -> None:
        """Drop text candidates by number, with the values that broke the rule; this renumbers the others."""
        if not values:
            return
        self.dropped += [Dropped(self.texts[number], rule, round(value, 4)) for number, value in values.items()]
        left = [number for number in range(len(self.texts)) if number not in values]
        self.places = [self.places[number] for number in left]
        self.texts = [self.texts[number] for number in left]

    def drop_rows(self, rows: Numbers, rule: str, values: NDArray[Any]) -> None:
        """Drop rows of the mined candidates."""
        if len(rows):
            self._dropped_mined.append(DroppedMined(rule, rows, values.astype(np.float64)))

    def drop_measured(self, places: Numbers, rule: str, values: NDArray[Any]) -> None:
        """Drop measured candidates.

        Args:
            places: places of the candidates to drop.
            rule: the rule that they break.
            values: (C,) the values that the rule checks, of all measured candidates.
        """
        is_text = self.measured.text[places] >= 0
        for place in places[is_text].tolist():
            self.dropped.append(Dropped(self.texts[self.measured.text[place]], rule, float(values[place])))
        mined = places[~is_text]
        self.drop_rows(self.measured.row[mined], rule, values[mined])

    def texts_of(self, candidates: Measured, known: Signatures) -> list[str]:
        """Return the texts of candidates."""
        is_mined = candidates.row >= 0
        numbers = known.add_documents(self.mined.document[candidates.row[is_mined]])
        documents = iter(numbers.tolist())
        return [
            known.texts[next(documents)] if text < 0 else self.texts[text].text for text in candidates.text.tolist()
        ]

    def keys_of(self, candidates: Measured, known: Signatures) -> Iterator[tuple[str, str]]:
        """Yield (pair's id, text) of each candidate."""
        texts = self.texts_of(candidates, known)
        for place, text in zip(candidates.pair.tolist(), texts, strict=True):
            yield self.pairs[place].id, text

    def result(self, chosen: Numbers, known: Signatures) -> Graded:
        """Return the result, with the measured candidates at the places `chosen` as negatives."""
        places = {pair.id: place for place, pair in enumerate(self.pairs)}
        self.dropped.sort(key=lambda dropped: places[dropped.candidate.pair_id])
        has_meaning = self.own[self.measured.pair, 0] > 0
        return Graded(
            tuples=list(self._tuples(self.measured[chosen], known)),
            dropped=self.dropped,
            dropped_mined=self._dropped_mined,
            measured=self.measured[has_meaning],
        )

    def _tuples(self, chosen: Measured, known: Signatures) -> Iterator[GradedTuple]:
        order = np.lexsort((chosen.relevance[:, 0], chosen.grade, chosen.pair))
        chosen = chosen[order]
        scores = (chosen.relevance[:, 0] * self.own[chosen.pair, 0]).round(4).tolist()
        texts = self.texts_of(chosen, known)
        columns = zip(texts, chosen.grade.tolist(), scores, chosen.is_written.tolist(), strict=True)
        negatives = [
            Negative(text, grade, score, "llm" if is_written else "mined") for text, grade, score, is_written in columns
        ]
        pairs, starts = np.unique(chosen.pair, return_index=True)
        ends = np.append(starts, len(chosen))[1:]
        for place, start, end in zip(pairs.tolist(), starts.tolist(), ends.tolist(), strict=True):
            pair = self.pairs[place]
            yield GradedTuple(
                id=pair.id,
                query=pair.query,
                positive=pair.positive,
                negatives=tuple(negatives[start:end]),
                instruction=pair.instruction,
                task=pair.task,
                score=round(float(self.own[place, 0]), 4),
                group=pair.group,
            )
