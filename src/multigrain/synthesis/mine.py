"""Mine candidates from the corpus, bucketed into the same grades by the judge's relevance."""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from multigrain.records import GRADES, Candidate, Document, Pair
from multigrain.vectors import Embed, Vectors

BLOCK = 256
"""Queries whose similarities to the whole corpus are in memory at once."""


def mine_candidates(
    pairs: list[Pair],
    documents: list[Document],
    embed: Embed,
    model: str,
    bounds: Sequence[float],
    per_grade: int = 1,
    seed: int = 7,
) -> Iterator[Candidate]:
    """For each pair and grade, up to `per_grade` documents whose relative relevance lies in the grade's band.

    Within a band the choice is random, by seed and pair, so that it does not depend on the order of the pairs.
    The positive itself, in any of its pairs with the same query, is never chosen.

    Args:
        pairs: queries with their positives.
        documents: where negatives may come from.
        embed: the judge's encoder; called once for each kind of text.
        model: the encoder's name, for the record.
        bounds: the four bounds of `multigrain.grades.grade_of`.
        per_grade: candidates for each pair and grade.
        seed: of the choice.
    """
    corpus = embed([document.text for document in documents])
    queries = embed([pair.query for pair in pairs])
    positives = embed([pair.positive for pair in pairs])
    of_positive = np.einsum("qd,qd->q", queries, positives)
    forbidden = _positives_by_query(pairs)
    for start in range(0, len(pairs), BLOCK):
        block = slice(start, start + BLOCK)
        scores = queries[block] @ corpus.T
        for pair, row, own in zip(pairs[block], scores, of_positive[block], strict=True):
            for index, grade in _choose(pair, row, float(own), bounds, per_grade, seed):
                if documents[index].text not in forbidden[pair.query]:
                    yield Candidate(pair.id, grade, documents[index].text, "mined", model)


def _choose(
    pair: Pair, scores: Vectors, own: float, bounds: Sequence[float], per_grade: int, seed: int
) -> Iterator[tuple[int, int]]:
    """(document, grade) for the documents chosen for one pair."""
    if own <= 0:
        return
    random = np.random.default_rng([seed, zlib.crc32(pair.id.encode())])
    grades = np.digitize(scores / own, bounds) + 1
    for grade in GRADES:
        members = np.flatnonzero(grades == grade)
        for index in random.choice(members, min(per_grade, len(members)), replace=False):
            yield int(index), grade


def _positives_by_query(pairs: list[Pair]) -> dict[str, set[str]]:
    positives: dict[str, set[str]] = {}
    for pair in pairs:
        positives.setdefault(pair.query, set()).add(pair.positive)
    return positives
