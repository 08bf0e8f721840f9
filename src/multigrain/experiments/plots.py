"""Plots of a comparison: metrics with intervals, trainings with their phases, grades before and after.

Does not import torch.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigrain.errors import first_line
from multigrain.evaluation.evaluate import Scores
from multigrain.evaluation.metrics import ORDER, margin_of
from multigrain.experiments.comparison import ArmScore, Comparison
from multigrain.experiments.results import RunScores
from multigrain.records import GRADES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FORMATS = ("svg", "png")
BEFORE, AFTER = "#9aa0a6", "#1a73e8"


def reason_for_none() -> str | None:
    """Return why no plots can be drawn here, and what to do; None if they can.

    Matplotlib also counts as missing if it is installed but cannot be imported.
    """
    try:
        import matplotlib
        import matplotlib.figure  # noqa: F401 (only tried)
    except ImportError as error:
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == "matplotlib"
        found = "is not installed" if is_absent else f"cannot be imported ({first_line(error)})"
        return f'plots are left out: matplotlib {found}. Run: pip install "multigrain[plots]"'
    return None


def write_plots(
    comparison: Comparison,
    trainings: Mapping[str, Sequence[dict[str, Any]]],
    graded: Mapping[str, tuple[RunScores, RunScores]],
    folder: Path,
) -> str | None:
    """Draw the plots for which there are data; without matplotlib, draw none and raise nothing.

    Args:
        comparison: the comparison of the arms.
        trainings: arm -> the lines of its training log.
        graded: arm -> the scores of base and trained model.
        folder: the folder for the plots.

    Returns:
        The reason why no plots could be drawn, or None.
    """
    if reason := reason_for_none():
        return reason
    for task, metrics in comparison.tasks.items():
        metric, scores = next(iter(metrics.items()))
        _save(_metric(task, metric, scores, comparison.baseline), folder / f"metric-{_file_name(task)}")
    if logs := {arm: log for arm, log in trainings.items() if log}:
        _save(_trainings(logs), folder / "training")
    for arm, (base, trained) in graded.items():
        for task, items in base.items.items():
            if any(ORDER in item for item in items.values()):
                figure = _separation(arm, items, trained.items[task])
                _save(figure, folder / f"grades-{_file_name(task)}-{_file_name(arm)}")
    return None


def written(folder: Path, no_plots: str | None, again: str) -> str:
    """Return the message that names the files of a comparison.

    Args:
        folder: the folder of the files.
        no_plots: the reason from `write_plots` why there are no plots, or None.
        again: the command that draws the plots later.
    """
    if no_plots is None:
        return f"{folder}: table.md, table.json, and plots (metric-*.svg, training.svg)"
    return f"{folder}: table.md and table.json; {no_plots}, then {again} draws them"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")


def _figure(height: float, width: float = 7) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: "Figure", path: Path) -> None:
    """Write a figure in each format, without a date, so that equal figures give equal files."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "multigrain"}):
        for form in FORMATS:
            metadata = {"Date": None} if form == "svg" else None
            figure.savefig(path.with_name(f"{path.name}.{form}"), metadata=metadata, dpi=150)


def _metric(task: str, metric: str, scores: Mapping[str, ArmScore], baseline: str) -> "Figure":
    """Draw each arm's value, the interval of its difference from the baseline, and its trainings as small dots."""
    figure, axes = _figure(1.2 + 0.35 * len(scores))
    names = list(scores)[::-1]
    for row, name in enumerate(names):
        score = scores[name]
        if score.difference is not None:
            around = score.value - score.difference.value
            axes.plot([around + score.difference.low, around + score.difference.high], [row, row], color=AFTER, lw=2)
        axes.plot(score.each, [row] * len(score.each), ".", color=BEFORE, ms=5)
        axes.plot([score.value], [row], "o", color=AFTER if score.difference else "black")
    axes.axvline(scores[baseline].value, color="black", lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(
        f"{metric} on {task}\nbar: 95 % interval of the difference from\n{baseline} (dotted line)", fontsize=8
    )
    return figure


def _trainings(logs: Mapping[str, Sequence[dict[str, Any]]]) -> "Figure":
    """Draw the loss by step, one line per arm, with the phases of the first arm marked."""
    figure, axes = _figure(3.5)
    for arm, log in logs.items():
        lines = [line for line in log if "loss" in line]
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=arm, lw=1.2)
    first = [line for line in next(iter(logs.values())) if "loss" in line and "phase" in line]
    for line in (next(lines) for _, lines in groupby(first, key=lambda line: line["phase"])):
        axes.axvline(line["step"], color=BEFORE, lw=0.8, ls=":")
        axes.text(line["step"], axes.get_ylim()[1], f" {line['phase']}", fontsize=7, va="top", color="#5f6368")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(fontsize=7, frameon=False)
    return figure


def _values(scores: Scores, metric: str) -> list[float]:
    return [item[metric] for item in scores.values() if metric in item]


def _separation(arm: str, base: Scores, trained: Scores) -> "Figure":
    """Draw how far the negatives of each grade are below the positive, before and after training."""
    figure, axes = _figure(3.2, 5)
    grades = [grade for grade in GRADES if any(margin_of(grade) in item for item in base.values())]
    for shift, color, scores in ((-0.18, BEFORE, base), (0.18, AFTER, trained)):
        margins = [_values(scores, margin_of(grade)) for grade in grades]
        places = [place + shift for place in range(len(grades))]
        axes.boxplot(
            margins, positions=places, widths=0.3, showfliers=False, patch_artist=True,
            boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.6}, medianprops={"color": "black"},
        )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8, ls=":")
    axes.set_xticks(range(len(grades)), [f"grade {grade}" for grade in grades])
    axes.set_ylabel("cosine of the positive minus the negative's")
    axes.set_title(f"{arm}: before (grey) and after (blue)", fontsize=9)
    return figure
