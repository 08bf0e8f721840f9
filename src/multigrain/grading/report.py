"""What became of the candidates, counted."""

from collections import Counter
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

from multigrain.grading.grade import Graded
from multigrain.records import GRADES, Candidate


def report(graded: Graded, candidates: list[Candidate]) -> dict[str, Any]:
    """Counts and measurements for `grading/report.json`.

    `order_rate` is the share of adjacent written candidates of a pair (grade asked g and the next one asked)
    whose measured relevance rises, before anything is moved or dropped for its relevance.
    """
    kept = [negative for graded_tuple in graded.tuples for negative in graded_tuple.negatives]
    sources = sorted({candidate.source for candidate in candidates})
    return {
        "tuples": len(graded.tuples),
        "negatives": len(kept),
        "tuples_with_all_grades": sum(len({n.grade for n in t.negatives}) == len(GRADES) for t in graded.tuples),
        "dropped": dict(Counter(dropped.rule for dropped in graded.dropped).most_common()),
        "order_rate": _order_rate(graded),
        "by_source": {source: [_row(graded, candidates, source, grade) for grade in GRADES] for source in sources},
    }


def _row(graded: Graded, candidates: list[Candidate], source: str, grade: int) -> dict[str, Any]:
    """One grade of one source: asked for at this grade; measured at this grade; kept at this grade."""
    relevance = [r for c, r, _ in graded.measured if c.source == source and c.grade == grade]
    return {
        "grade": grade,
        "asked": sum(c.source == source and c.grade == grade for c in candidates),
        "measured": sum(c.source == source and measured == grade for c, _, measured in graded.measured),
        "kept": sum(n.source == source and n.grade == grade for t in graded.tuples for n in t.negatives),
        "dropped": dict(
            Counter(d.rule for d in graded.dropped if d.candidate.source == source and d.candidate.grade == grade)
        ),
        "relevance_mean": round(fmean(relevance), 4) if relevance else None,
        "relevance_spread": round(pstdev(relevance), 4) if relevance else None,
    }


def _order_rate(graded: Graded) -> float | None:
    by_pair: dict[str, dict[int, float]] = {}
    for candidate, relevance, _ in graded.measured:
        if candidate.source == "llm":
            by_pair.setdefault(candidate.pair_id, {}).setdefault(candidate.grade, relevance)
    rises = [low[1] < high[1] for grades in by_pair.values() for low, high in pairwise(sorted(grades.items()))]
    return round(fmean(rises), 4) if rises else None
