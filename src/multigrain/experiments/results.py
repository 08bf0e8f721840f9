"""Read the scores of a finished run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from multigrain.data.jsonl import read_objects
from multigrain.errors import DataError, RunError
from multigrain.evaluation.evaluate import Scores
from multigrain.evaluation.metrics import overall
from multigrain.evaluation.tasks import MTEB
from multigrain.pipeline.run_dir import RunDir


@dataclass(frozen=True)
class RunScores:
    """The scores of one training.

    Attributes:
        items: task -> item -> metric -> value. A task may have only overall metrics.
        scores: task -> metric -> value for the whole task.
        texts: task -> item -> text, for people to read.
        documents: task -> number of documents searched. Runs of older versions lack it.
    """

    items: dict[str, Scores]
    scores: dict[str, dict[str, float]]
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)


def read_run(folder: Path) -> tuple[RunScores, RunScores]:
    """Read the scores of base and trained model of a run.

    Raises:
        RunError: the folder has no scores, its current model is not measured, or its files are damaged.
    """
    run_dir = RunDir(folder)
    if run_dir.manifest.is_file() and "evaluate" not in run_dir.stages():
        raise RunError(f"{folder}: the model is not measured yet. Run: multigrain evaluate RUN.toml")
    try:
        return _read_run(folder / "evaluation")
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder}: nothing is measured here. Run: multigrain evaluate RUN.toml") from None
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be read: {error.strerror}.") from None
    except (DataError, ValueError, LookupError, TypeError, AttributeError) as error:
        fault = f"{folder}/evaluation: damaged ({type(error).__name__}: {error})"
        raise RunError(f"{fault}. Run: multigrain evaluate RUN.toml --force") from None


def tuned_score(folder: Path) -> float:
    """Return the first metric of a run's only task, by which settings are chosen."""
    _, trained = read_run(folder)
    (metrics,) = trained.scores.values()
    return next(iter(metrics.values()))


def _read_run(folder: Path) -> tuple[RunScores, RunScores]:
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    texts: dict[str, dict[str, str]] = {}
    documents = dict(scores.get("documents", {}))
    base = RunScores({}, dict(scores["base"]), texts, documents)
    trained = RunScores({}, dict(scores["trained"]), texts, documents)
    for line, item in read_objects(folder / "per_query.jsonl"):
        try:
            texts.setdefault(item["task"], {})[item["query"]] = item.get("text", item["query"])
            base.items.setdefault(item["task"], {})[item["query"]] = _numbers(item["base"])
            trained.items.setdefault(item["task"], {})[item["query"]] = _numbers(item["trained"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(folder / "per_query.jsonl", f"{type(error).__name__}: {error}", line) from None
    for side in (base, trained):
        for task, metrics in side.scores.items():
            side.scores[task] = _numbers(metrics)
            if not task.startswith(MTEB):  # those have only overall scores
                _require_all_items(metrics, side.items.get(task, {}))
    return base, trained


def _require_all_items(metrics: Mapping[str, float], items: Scores) -> None:
    """Check that the metrics follow from the items.

    Raises:
        ValueError: they do not.
    """
    found = overall(items.values())
    if found.keys() != metrics.keys() or any(abs(found[name] - metrics[name]) > 1e-6 for name in found):
        raise ValueError(f"{len(items)} items in per_query.jsonl give {found}; scores.json says {dict(metrics)}")


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Return a copy of the metrics, if each is a number.

    Raises:
        ValueError: one is not, or there are none.
    """
    if not metrics or any(not isinstance(value, int | float) or not isfinite(value) for value in metrics.values()):
        raise ValueError(f"found {metrics}; wanted a number for each metric")
    return dict(metrics)
