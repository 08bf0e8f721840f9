"""Report on the grading of candidates: counts, measurements, and a few tuples to read."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigrain.data.mined_candidates import Mined
from multigrain.grading.block import Graded
from multigrain.grading.duplicates import NearDuplicates
from multigrain.grading.grade import Proposal
from multigrain.grading.measured import Measured
from multigrain.grading.surface_features import statistics_of
from multigrain.grading.surface_leak import LIMIT, Leak, Sample, find_leak
from multigrain.records import FALSE_NEGATIVE, GRADES, Candidate, GradedTuple, folded, to_json

SAMPLED = 1000
"""Tuples sampled for style, leak and near duplicates: accuracies are precise to 2 points, in some CPU seconds."""
DIGITS = 4
"""Decimal digits of a relevance."""
SHOWN = 10
SHOWN_CHARACTERS = 150


class Report:
    """Counts over all pairs; memory holds only figures and a seeded sample of the tuples.

    Args:
        judges: names of the judges, in order.
        seed: seed of the sample.
    """

    def __init__(self, judges: Sequence[str], seed: int) -> None:
        self._judges, self._seed, self._random = list(judges), seed, random.Random(seed)
        self._tuples = self._complete = self._repeats = 0
        self._asked: Counter[tuple[str, int]] = Counter()
        self._kept: Counter[tuple[str, int]] = Counter()
        self._measured: Counter[tuple[str, int]] = Counter()
        self._dropped: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        self._relevance: defaultdict[tuple[str, int], Distribution] = defaultdict(Distribution)
        self._written_rises: list[list[bool]] = [[] for _ in judges]
        self._sample: list[GradedTuple] = []

    def add(self, proposals: Sequence[Proposal], mined: Mined, graded: Graded) -> None:
        """Count the outcome for some pairs and the documents mined for them."""
        for _, candidates in proposals:
            self._asked.update(map(_group, candidates))
        self._asked.update(_mined_groups(mined.grade))
        for dropped in graded.dropped:
            self._dropped[_group(dropped.candidate)][dropped.rule] += 1
        for each in graded.dropped_mined:
            for group in (groups := _mined_groups(mined.grade[each.row])):
                self._dropped[group][each.rule] += groups[group]
        self._add_measured(graded.measured)
        for graded_tuple in graded.tuples:
            self._add_tuple(graded_tuple)

    def _add_measured(self, measured: Measured) -> None:
        for source, is_written in (("llm", True), ("mined", False)):
            of_source = measured[measured.is_written == is_written]
            for grade in range(1, FALSE_NEGATIVE + 1):
                self._measured[source, grade] += int((of_source.grade == grade).sum())
                relevance = of_source.relevance[of_source.asked == grade, 0]
                if len(relevance):
                    self._relevance[source, grade].add(relevance)
        self._add_rises(measured[measured.is_written])

    def _add_rises(self, written: Measured) -> None:
        """Record whether relevance rises from each written grade of a pair to the next, before grading."""
        if not len(written):
            return
        order = np.lexsort((written.asked, written.pair))
        cells = written.pair[order] * (FALSE_NEGATIVE + 1) + written.asked[order]
        first = order[np.unique(cells, return_index=True)[1]]  # one for each requested grade
        pair, relevance = written.pair[first], written.relevance[first]
        is_step = pair[1:] == pair[:-1]
        for rises, low, high in zip(self._written_rises, relevance[:-1].T, relevance[1:].T, strict=True):
            rises += [bool(rose) for rose in (low < high)[is_step]]

    def _add_tuple(self, graded: GradedTuple) -> None:
        self._tuples += 1
        self._complete += len({n.grade for n in graded.negatives}) == len(GRADES)
        self._repeats += len(graded.negatives) - len({folded(n.text) for n in graded.negatives})
        self._kept.update((n.source, n.grade) for n in graded.negatives)
        if len(self._sample) < SAMPLED:
            self._sample.append(graded)
        elif (place := self._random.randrange(self._tuples)) < SAMPLED:
            self._sample[place] = graded

    def result(self) -> dict[str, Any]:
        """Return counts and measurements for `grading/report.json`.

        `order_rate` is, for each judge, the share of adjacent written candidates of a pair (requested grade g and the
        next one requested) whose relevance rises, before grading. In the tuples it rises by construction.
        """
        leak = self._leak()
        dropped = sum(self._dropped.values(), Counter[str]())
        return {
            "tuples": self._tuples,
            "negatives": self._kept.total(),
            "tuples_with_all_grades": self._complete,
            "judges": self._judges,
            "dropped": dict(dropped.most_common()),
            "order_rate": {
                name: round(fmean(rises), 4) if rises else None
                for name, rises in zip(self._judges, self._written_rises, strict=True)
            },
            "duplicates_within_tuples": self._repeats,
            "near_duplicates_across_tuples": self._near_duplicates(),
            "by_source": {
                source: [self._row(source, grade) for grade in GRADES]
                for source in sorted({source for source, _ in self._asked})
            },
            "style": self._style(),
            "leak": _leak_json(leak),
            "examples": [to_json(graded) for graded in self._examples()],
        }

    def _row(self, source: str, grade: int) -> dict[str, Any]:
        """Return the counts of one grade of one source: candidates asked for, measured and kept at this grade."""
        relevance = self._relevance[source, grade]
        return {
            "grade": grade,
            "asked": self._asked[source, grade],
            "measured": self._measured[source, grade],
            "kept": self._kept[source, grade],
            "dropped": dict(self._dropped[source, grade].most_common()),
            "relevance_mean": relevance.mean,
            "relevance_spread": relevance.spread,
            "relevance_quartiles": relevance.quartiles,
        }

    def _style(self) -> dict[str, Any]:
        """Return lengths and style of the positives, and of the negatives by grade and source."""
        groups: dict[str, list[str]] = {"positive": [graded.positive for graded in self._sample]}
        for graded in self._sample:
            for negative in graded.negatives:
                groups.setdefault(f"grade {negative.grade} {negative.source}", []).append(negative.text)
        return {name: statistics_of(texts) for name, texts in sorted(groups.items())}

    def _leak(self) -> Leak | None:
        positives = [Sample(graded.id, graded.positive) for graded in self._sample]
        negatives = [
            Sample(graded.id, negative.text, f"grade {negative.grade} {negative.source}")
            for graded in self._sample
            for negative in graded.negatives
        ]
        return find_leak(positives, negatives)

    def _near_duplicates(self) -> float | None:
        """Return the share of written negatives in the sample that nearly equal one of another tuple.

        Mined negatives do not count: near duplicates among them are in the corpus itself.
        """
        written = [n.text for graded in self._sample for n in graded.negatives if n.source == "llm"]
        texts, seen = dict.fromkeys(map(folded, written)), NearDuplicates()
        return round(fmean(seen.add(text) is not None for text in texts), 4) if texts else None

    def _examples(self) -> list[GradedTuple]:
        return random.Random(self._seed).sample(self._sample, min(SHOWN, len(self._sample)))


class Distribution:
    """Mean, spread and quartiles of many numbers, to four digits, without keeping the numbers in memory."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._rounded: Counter[int] = Counter()

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Count some numbers."""
        self._count += len(numbers)
        self._sum += float(numbers.sum())
        self._squares += float((numbers**2).sum())
        rounded, counts = np.unique(np.rint(numbers * 10**DIGITS).astype(np.int64), return_counts=True)
        self._rounded.update(dict(zip(rounded.tolist(), counts.tolist(), strict=True)))

    @property
    def mean(self) -> float | None:
        """The mean; None without numbers."""
        return round(self._sum / self._count, DIGITS) if self._count else None

    @property
    def spread(self) -> float | None:
        """The standard deviation; None without numbers."""
        if not self._count:
            return None
        return round(math.sqrt(max(self._squares / self._count - (self._sum / self._count) ** 2, 0.0)), DIGITS)

    @property
    def quartiles(self) -> list[float] | None:
        """The quartiles of the numbers, rounded to four digits; None if there are fewer than two."""
        if self._count < 2:
            return None
        table = np.array(sorted(self._rounded.items()))
        values, ends = table[:, 0], np.cumsum(table[:, 1])

        def at(place: int) -> float:
            return float(values[int(np.searchsorted(ends, place, side="right"))])

        found = []
        for quarter in (1, 2, 3):  # as `statistics.quantiles` does
            place, part = divmod(quarter * (self._count + 1), 4)
            place = min(max(place, 1), self._count - 1)
            part = quarter * (self._count + 1) - place * 4
            value = (at(place - 1) * (4 - part) + at(place) * part) / 4
            found.append(round(value / 10**DIGITS, DIGITS))
        return found


def render(report: dict[str, Any]) -> str:
    """Render the report as a table, with the main shares below it."""
    lines = [f"{'source':7} {'grade':>5} {'asked':>6} {'kept':>6} {'relevance':>14} {'words':>6}  dropped"]
    for source, rows in report["by_source"].items():
        for row in rows:
            if not row["asked"] and not row["kept"]:
                continue
            mean = row["relevance_mean"]
            relevance = f"{mean:.2f} +- {row['relevance_spread']:.2f}" if mean is not None else ""
            words = report["style"].get(f"grade {row['grade']} {source}", {}).get("words", [0, 0, 0])[1]
            dropped = ", ".join(f"{rule} {count}" for rule, count in row["dropped"].items())
            lines.append(
                f"{source:7} {row['grade']:5} {row['asked']:6} {row['kept']:6} {relevance:>14} {words:6.0f}  {dropped}"
            )
    orders = ", ".join(f"{rate:.2f} by {name}" for name, rate in report["order_rate"].items() if rate is not None)
    complete = report["tuples_with_all_grades"] / max(report["tuples"], 1)
    lines.append(
        f"tuples with all four grades: {complete:.1%}; written grades in order, before grading: {orders or '-'}"
    )
    if leak := report["leak"]:
        lines.append(f"leak test: surface features tell positives from negatives with accuracy {leak['accuracy']:.2f}")
    return "\n".join(lines)


def leak_warning(report: dict[str, Any]) -> str | None:
    """Return a warning if a model could learn the style of negatives instead of their meaning, else None."""
    leak = report["leak"]
    if not leak or leak["accuracy"] <= LIMIT:
        return None
    telling = "; ".join(
        f"{feature['name']} {feature['positive']:.3g} against {feature['negative']:.3g}" for feature in leak["features"]
    )
    worst = max(leak["by_group"], key=leak["by_group"].get, default="?")
    return (
        f"surface features tell positives from negatives (accuracy {leak['accuracy']:.2f}, wanted at most {LIMIT}): "
        f"{telling}; most of all in {worst}. "
        "Take that grade from the corpus (synthesis.sources), or lower grading.length_ratio."
    )


def what_became(report: dict[str, Any]) -> str:
    """Summarize why candidates were dropped, for a run in which hardly any pair has negatives."""
    found, dropped = f"pairs with negatives: {report['tuples']}", report["dropped"]
    if not dropped:
        return f"{found}; no candidates were proposed. See synthesis.limit and mining.enabled."
    rules = ", ".join(f'{count} for "{rule}"' for rule, count in dropped.items())
    return f"{found}; candidates dropped: {rules}."


def render_examples(report: dict[str, Any]) -> str:
    """Render the sampled tuples, one line per text."""
    blocks = []
    for graded in report["examples"]:
        lines = [f"{'query':14}{graded['query']}", f"{'positive':14}{graded['positive']}"]
        lines += [f"grade {n['grade']} {n['source']:6}{n['text']}" for n in graded["negatives"]]
        blocks.append("\n".join(" ".join(line.split("\n"))[:SHOWN_CHARACTERS] for line in lines))
    return "\n\n".join(blocks)


def _mined_groups(grades: NDArray[np.int8]) -> Counter[tuple[str, int]]:
    """Count mined candidates by source and grade."""
    counts = np.bincount(grades)
    return Counter({("mined", int(grade)): int(counts[grade]) for grade in np.flatnonzero(counts)})


def _group(candidate: Candidate) -> tuple[str, int]:
    return candidate.source, candidate.grade


def _leak_json(leak: Leak | None) -> dict[str, Any] | None:
    if leak is None:
        return None
    features = [
        {"name": f.name, "accuracy": round(f.accuracy, 4), "positive": f.positive, "negative": f.negative}
        for f in leak.features
    ]
    by_group = {label: round(accuracy, 4) for label, accuracy in leak.by_label.items()}
    return {"accuracy": round(leak.accuracy, 4), "tuples": leak.tuples, "features": features, "by_group": by_group}
