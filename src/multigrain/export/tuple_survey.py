"""Count graded tuples by their negatives, before the first is written."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from multigrain.records import GradedTuple


@dataclass(frozen=True)
class Survey:
    """The counts of the tuples that must be known before the first is written.

    Attributes:
        sizes: how many tuples have how many negatives.
        has_instructions: whether any of them has one.
        least: the negatives that a tuple needs to be written.
        has_groups: whether any of them has one.
    """

    sizes: Counter[int]
    has_instructions: bool
    least: int = 1
    has_groups: bool = False

    @property
    def written(self) -> int:
        """Number of tuples that are written."""
        return self.at_least(self.least)

    @property
    def negatives(self) -> int:
        """Number of negatives of the tuples that are written."""
        return sum(size * tuples for size, tuples in self.sizes.items() if size >= self.least)

    def at_least(self, negatives: int) -> int:
        """Return the number of tuples that have that many negatives, or more."""
        return sum(tuples for size, tuples in self.sizes.items() if size >= negatives)

    def most_kept(self) -> int:
        """Return the number of columns in which most negatives find a place; the smaller one of two such.

        >>> Survey(Counter({1: 3, 4: 2}), has_instructions=False).most_kept()  # 4 * 2 in four columns, 1 * 5 in one
        4
        """
        sizes = range(1, max(self.sizes, default=0) + 1)
        return max(sizes, key=lambda columns: columns * self.at_least(columns), default=1)


def survey_of(tuples: Iterator[GradedTuple]) -> Survey:
    """Read tuples once, and count them."""
    sizes: Counter[int] = Counter()
    has_instructions = has_groups = False
    for graded in tuples:
        sizes[len(graded.negatives)] += 1
        has_instructions = has_instructions or bool(graded.instruction)
        has_groups = has_groups or graded.group is not None
    return Survey(sizes, has_instructions, has_groups=has_groups)
