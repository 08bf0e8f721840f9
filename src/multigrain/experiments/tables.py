"""A comparison as text: Markdown tables, and columns for a terminal."""

from collections.abc import Iterator, Mapping

from multigrain.experiments.comparison import ArmScore, Comparison
from multigrain.terminal import PLAIN, columns, interval, named, shortened

TEXT_WIDTH = 110
GAP = len("0.123 ± 0.012  ")
"""What a column of figures takes at least."""


def tables(comparison: Comparison) -> str:
    """A table for each task: arms as rows, metrics as columns, then the first metric against the baseline."""
    return "\n\n".join(
        "\n".join([f"### {task}", "", *_table(comparison.baseline, metrics)])
        for task, metrics in comparison.tasks.items()
    )


def to_markdown(comparison: Comparison) -> str:
    """The tables, and then the items that moved most."""
    return "\n\n".join([tables(comparison), *_moves(comparison, TEXT_WIDTH)])


def for_terminal(comparison: Comparison, width: int = PLAIN) -> str:
    """The tables for somebody who sees the end of a text first: below the items that moved most, and in columns."""
    blocks = [
        "\n".join([f"{task}: differences from {named([comparison.baseline])}", *_lines(comparison, metrics, width)])
        for task, metrics in comparison.tasks.items()
    ]
    return "\n\n".join([*_moves(comparison, width), *blocks])


def _moves(comparison: Comparison, width: int) -> Iterator[str]:
    for task, arms in comparison.moved.items():
        for arm, moved in arms.items():
            if moved:
                heads = [f"- {m['before']:.3f} -> {m['after']:.3f}  " for m in moved]
                lines = [head + shortened(m["text"], width - len(head)) for head, m in zip(heads, moved, strict=True)]
                yield "\n".join([f"Moved most on {task}, {comparison.baseline} -> {arm}:", "", *lines])


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
    """The first metric with all that is known of it, then the others, as many beside each other as find a place."""
    first, *others = metrics
    scores = metrics[first]
    rows = [("arm", first, "difference", "95 % interval", "p (Holm)", "seeds")]
    for arm, score in scores.items():
        figures = (_value(score), *_difference(score, scores[comparison.baseline]), str(len(score.each)))
        rows.append((_plain(arm), *figures))
    yield from columns(rows)
    names = max(map(len, (_plain(arm) for arm in scores)))
    beside = max(1, (width - names) // max(GAP, *(len(name) + 2 for name in metrics)))
    for start in range(0, len(others), beside):
        part = others[start : start + beside]
        values = [[_plain(arm), *(_value(metrics[name][arm]) for name in part)] for arm in scores]
        yield from ("", *columns([["arm", *part], *values]))


def _value(score: ArmScore) -> str:
    return f"{score.value:.3f}" + ("" if score.spread is None else f" ± {score.spread:.3f}")


def _difference(score: ArmScore, baseline: ArmScore) -> tuple[str, str, str]:
    """The difference, its interval and its p."""
    if score is baseline:
        return "", "", ""
    if score.difference is None:  # a task that has a score alone: there is nothing that could be drawn
        return f"{score.value - baseline.value:+.3f}", "", ""
    value, low, high = score.difference
    return f"{value:+.3f}", interval(low, high), "" if score.p is None else f"{score.p:.4f}"


def _plain(name: str) -> str:
    """A name that breaks no table."""
    return " ".join(name.replace("|", "/").split())
