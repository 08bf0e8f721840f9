"""The differences between a base model and the trained one, as the rows of a table. No torch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from multigrain.progress import interval


class DifferenceRow(NamedTuple):
    """One metric of one task, as text: a row of the table under `HEAD`."""

    task: str
    metric: str
    base: str
    trained: str
    difference: str
    interval: str


HEAD = DifferenceRow("task", "metric", "base", "trained", "difference", "95 % interval")
"""The names of the columns."""


def difference_rows(summary: dict[str, Any]) -> Iterator[DifferenceRow]:
    """Yield one row for each metric of each task.

    Args:
        summary: what `summary.json` holds: `base` and `trained` map task -> metric -> value, and `difference` maps
            task -> metric -> (value, lower bound, upper bound); a task that has a score alone has no bounds.

    >>> score = {"sts:x": {"Spearman": 0.5}}
    >>> difference = {"sts:x": {"Spearman": (0.25, 0.125, 0.375)}}
    >>> row = next(difference_rows({"base": score, "trained": {"sts:x": {"Spearman": 0.75}}, "difference": difference}))
    >>> row.base, row.trained, row.difference
    ('0.500', '0.750', '+0.250')
    """
    for task, metrics in summary["difference"].items():
        for metric, (value, low, high) in metrics.items():
            yield DifferenceRow(
                task=task,
                metric=metric,
                base=f"{summary['base'][task][metric]:.3f}",
                trained=f"{summary['trained'][task][metric]:.3f}",
                difference=f"{value:+.3f}",
                interval=interval(low, high),
            )
