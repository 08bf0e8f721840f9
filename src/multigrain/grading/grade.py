"""Turn candidates into graded tuples; whatever is dropped is kept with the rule that dropped it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from multigrain.grades import FALSE_NEGATIVE, grade_of
from multigrain.grading.rules import broken_rule
from multigrain.records import Candidate, Dropped, GradedTuple, Negative, Pair


class Judge(Protocol):
    """Measures relevance."""

    def relevance(self, query: str, text: str) -> float:
        """How relevant the text is to the query; higher is more."""


@dataclass(frozen=True)
class Graded:
    """The result: what is kept, what was dropped and why, and the measurements of all that were judged."""

    tuples: list[GradedTuple]
    dropped: list[Dropped]
    measured: list[tuple[Candidate, float, int]]
    """(candidate, relative relevance, measured grade) of each candidate that broke no rule."""


def grade_candidates(
    pairs: list[Pair], candidates: list[Candidate], judge: Judge, bounds: Sequence[float], per_grade: int = 1
) -> Graded:
    """Judge every candidate and give it the grade that it has, not the one it was asked for.

    A candidate is dropped if it breaks a rule (`multigrain.grading.rules`), is as relevant as the positive
    ("false negative"), belongs to a positive that is itself irrelevant ("irrelevant positive"), or finds its
    grade filled ("surplus": written candidates come before mined ones, and those that have the grade they
    were asked for before those that were moved to it).
    Pairs that are left without any negative are not among the tuples.

    Args:
        pairs: what the candidates were proposed for.
        candidates: in any order.
        judge: measures relevance.
        bounds: see `multigrain.grades.grade_of`.
        per_grade: negatives to keep in each grade.
    """
    by_pair: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_pair.setdefault(candidate.pair_id, []).append(candidate)
    result = Graded([], [], [])
    for pair in pairs:
        negatives = _grade_pair(pair, by_pair.get(pair.id, []), judge, bounds, per_grade, result)
        if negatives:
            result.tuples.append(
                GradedTuple(pair.id, pair.query, pair.positive, tuple(negatives), pair.instruction, pair.task)
            )
    return result


def _grade_pair(
    pair: Pair, candidates: list[Candidate], judge: Judge, bounds: Sequence[float], per_grade: int, result: Graded
) -> list[Negative]:
    own = judge.relevance(pair.query, pair.positive)
    if own <= 0:  # then no share of it means anything
        result.dropped.extend(Dropped(candidate, "irrelevant positive", round(own, 4)) for candidate in candidates)
        return []
    passed: list[tuple[Candidate, float, int]] = []
    for candidate in sorted(candidates, key=lambda c: (c.source != "llm", c.grade)):
        earlier = [other.text for other, _, _ in passed]
        if broken := broken_rule(candidate, pair, earlier):
            result.dropped.append(Dropped(candidate, *broken))
            continue
        score = judge.relevance(pair.query, candidate.text)
        relative = score / own
        grade = grade_of(relative, bounds)
        result.measured.append((candidate, relative, grade))
        if grade == FALSE_NEGATIVE:
            result.dropped.append(Dropped(candidate, "false negative", round(relative, 4)))
        else:
            passed.append((candidate, score, grade))
    return _fill(passed, per_grade, result)


def _fill(passed: list[tuple[Candidate, float, int]], per_grade: int, result: Graded) -> list[Negative]:
    """The negatives that are kept, in rising order of grade and score."""
    kept: dict[int, list[Negative]] = {}
    for candidate, score, grade in sorted(passed, key=lambda p: (p[0].source != "llm", p[0].grade != p[2])):
        place = kept.setdefault(grade, [])
        if len(place) < per_grade:
            place.append(Negative(candidate.text, grade, round(score, 4), candidate.source))
        else:
            result.dropped.append(Dropped(candidate, "surplus", float(grade)))
    return sorted((n for place in kept.values() for n in place), key=lambda n: (n.grade, n.score))
