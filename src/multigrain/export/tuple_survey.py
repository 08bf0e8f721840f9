"""Count graded tuples by their negatives, before writing them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from multigrain.records import GradedTuple


@dataclass(frozen=True)
class Survey:
    """Counts of tuples that are needed before the first one is written.

    Attributes:
        sizes: number of tuples, by number of negatives.
        has_instructions: whether any tuple has an instruction.
        least: the minimum number of negatives of a tuple to write.
        has_groups: whether any tuple has a group.
    """

    sizes: Counter[int]
    has_instructions: bool
    least: int = 1
    has_groups: bool = False

    @property
    def written(self) -> int:
        """Number of tuples to write."""
        return self.at_least(self.least)

    @property
    def negatives(self) -> int:
        """Number of negatives in the tuples to write."""
        return sum(size * tuples for size, tuples in self.sizes.items() if size >= self.least)

    def at_least(self, negatives: int) -> int:
        """Return the number of tuples with at least this many negatives."""
        return sum(tuples for size, tuples in self.sizes.items() if size >= negatives)

    def most_kept(self) -> int:
        """Return the number of columns that keeps the most negatives; the smaller number in a tie.

        >>> Survey(Counter({1: 3, 4: 2}), has_instructions=False).most_kept()  # 4 * 2 in four columns, 1 * 5 in one
        4
        """
        sizes = range(1, max(self.sizes, default=0) + 1)
        return max(sizes, key=lambda columns: columns * self.at_least(columns), default=1)


def survey_of(tuples: Iterator[GradedTuple]) -> Survey:
    """Read all tuples once, and count them."""
    sizes: Counter[int] = Counter()
    has_instructions = has_groups = False
    for graded in tuples:
        sizes[len(graded.negatives)] += 1
        has_instructions = has_instructions or bool(graded.instruction)
        has_groups = has_groups or graded.group is not None
    return Survey(sizes, has_instructions, has_groups=has_groups)
