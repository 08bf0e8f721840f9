"""Count the outcome of grading for each of several sources of pairs."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from multigrain.data.mined_candidates import Mined
from multigrain.grading.block import Graded
from multigrain.grading.grade import Proposal


class SourceCounts:
    """Pairs, tuples, negatives and dropped candidates of each source.

    Args:
        sources: names of the sources.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._counts: dict[str, Counter[str]] = {name: Counter(pairs=0, tuples=0, negatives=0) for name in sources}
        self._dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, proposals: Sequence[Proposal], mined: Mined, graded: Graded) -> None:
        """Count the outcome for some pairs and the documents mined for them, numbered from the first of the pairs."""
        names = [pair.source or "" for pair, _ in proposals]
        by_id = {pair.id: pair.source or "" for pair, _ in proposals}
        for name in names:
            self._counts[name]["pairs"] += 1
        for each in graded.tuples:
            self._counts[by_id[each.id]].update(tuples=1, negatives=len(each.negatives))
        for dropped in graded.dropped:
            self._dropped[by_id[dropped.candidate.pair_id]][dropped.rule] += 1
        for rows in graded.dropped_mined:
            for place in mined.pair[rows.row].tolist():
                self._dropped[names[place]][rows.rule] += 1

    def result(self) -> dict[str, Any]:
        """Return the counts of each source, for `grading/report.json`."""
        return {
            name: {**counts, "dropped": dict(self._dropped[name].most_common())}
            for name, counts in self._counts.items()
        }


def render_sources(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each source with pairs."""
    lines = []
    for name, of_source in counts.items():
        if not of_source["pairs"]:
            continue
        dropped = ", ".join(f"{rule} {count}" for rule, count in of_source["dropped"].items()) or "nothing"
        told = f"{of_source['tuples']} tuples of {of_source['pairs']} pairs, {of_source['negatives']} negatives"
        lines.append(f"source {name}: {told}; dropped: {dropped}")
    return lines
