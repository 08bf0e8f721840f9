"""A comparison as text: Markdown tables, and columns for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from multigrain.experiments.comparison import ArmScore, Comparison
from multigrain.terminal import PLAIN, columns, interval, named, shortened

TEXT_WIDTH = 110
GAP = len("0.123 ± 0.012  ")
"""Minimum width of a column of figures, in characters."""


def tables(comparison: Comparison) -> str:
    """Return a table for each task: arms as rows, metrics as columns, then the first metric against the baseline."""
    return "\n\n".join(
        "\n".join([f"### {task}", "", *_table(comparison.baseline, metrics)])
        for task, metrics in comparison.tasks.items()
    )


def to_markdown(comparison: Comparison) -> str:
    """Return the tables, followed by the items that moved most."""
    return "\n\n".join([tables(comparison), *_moves(comparison, TEXT_WIDTH)])


def for_terminal(comparison: Comparison, width: int = PLAIN) -> str:
    """Return the tables in columns, after the items that moved most, because a terminal shows the end of a text."""
    blocks = [
        "\n".join([f"{task}: differences from {named([comparison.baseline])}", *_lines(comparison, metrics, width)])
        for task, metrics in comparison.tasks.items()
    ]
    return "\n\n".join([*_moves(comparison, width), *blocks])


def _moves(comparison: Comparison, width: int) -> Iterator[str]:
    for task, arms in comparison.moved.items():
        for arm, moved in arms.items():
            if moved:
                lines = [_move(item, width) for item in moved]
                yield "\n".join([f"Moved most on {task}, {comparison.baseline} -> {arm}:", "", *lines])


def _move(item: Mapping[str, Any], width: int) -> str:
    head = f"- {item['before']:.3f} -> {item['after']:.3f}  "
    return head + shortened(item["text"], width - len(head))


def _table(baseline: str, metrics: Mapping[str, Mapping[str, ArmScore]]) -> Iterator[str]:
    first = next(iter(metrics))
    yield f"| arm | {' | '.join(metrics)} | {first} - {_plain(baseline)} | 95 % interval | p (Holm) | seeds |"
    yield "|" + " --- |" * (len(metrics) + 5)
    scores_of_first = metrics[first]
    for arm, score in scores_of_first.items():
        values = " | ".join(_value(scores[arm]) for scores in metrics.values())
        difference = " | ".join(_difference(score, scores_of_first[baseline]))
        yield f"| {_plain(arm)} | {values} | {difference} | {len(score.each)} |"


def _lines(comparison: Comparison, metrics: Mapping[str, Mapping[str, ArmScore]], width: int) -> Iterator[str]:
    """Yield the first metric with its interval and test, then the others, as many side by side as fit."""
    first, *others = metrics
    scores = metrics[first]
    rows = [("arm", first, "difference", "95 % interval", "p (Holm)", "seeds")]
    for arm, score in scores.items():
        figures = (_value(score), *_difference(score, scores[comparison.baseline]), str(len(score.each)))
        rows.append((_plain(arm), *figures))
    yield from columns(rows)
    width_of_names = max(len(_plain(arm)) for arm in scores)
    width_of_figures = max(GAP, *(len(name) + 2 for name in metrics))
    beside = max(1, (width - width_of_names) // width_of_figures)
    for start in range(0, len(others), beside):
        part = others[start : start + beside]
        table = [["arm", *part]]
        table += [[_plain(arm), *(_value(metrics[name][arm]) for name in part)] for arm in scores]
        yield ""
        yield from columns(table)


def _value(score: ArmScore) -> str:
    return f"{score.value:.3f}" + ("" if score.spread is None else f" ± {score.spread:.3f}")


def _difference(score: ArmScore, baseline: ArmScore) -> tuple[str, str, str]:
    """Return three cells: the difference, its interval and its p."""
    if score is baseline:
        return "", "", ""
    if score.difference is None:  # a task with only an overall score has no items to resample
        return f"{score.value - baseline.value:+.3f}", "", ""
    value, low, high = score.difference
    return f"{value:+.3f}", interval(low, high), "" if score.p is None else f"{score.p:.4f}"


def _plain(name: str) -> str:
    """Return a name without characters that would break a table."""
    return " ".join(name.replace("|", "/").split())
