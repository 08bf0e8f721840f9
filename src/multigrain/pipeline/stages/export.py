"""Hand over what a run has made: the model, and the tuples."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.config import Config, PhaseSection
from multigrain.data.jsonl import read_tuples
from multigrain.model.older_settings import least_release
from multigrain.model.prompts import prompts_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.summary import summarize

if TYPE_CHECKING:
    from multigrain.export.card import Lesson


SAMPLED = 1000
"""Positives by which the languages of the data are told."""
COMMON = 0.1
"""Share of those whose language is known that a language has at least, to be one of the model's."""


def export(config: Config, run_dir: RunDir) -> Result:
    """Copy the trained model, with its card, to where others load it."""
    from multigrain.export.card import model_card
    from multigrain.export.model_folder import export_model

    summary = summarize(config, run_dir, list(run_dir.stages()))
    phases = [PhaseSection(**phase) for phase in json.loads(run_dir.curriculum.read_text(encoding="utf-8"))]
    card = model_card(config, summary, prompts_of(str(run_dir.trained)) or {}, _lesson(run_dir, phases))
    export_model(run_dir.trained, run_dir.model, card, config.export)
    return Result({"files": sum(path.is_file() for path in run_dir.model.rglob("*"))})


def _lesson(run_dir: RunDir, phases: Sequence[PhaseSection]) -> "Lesson":
    """Collect what the training could see of the tuples: negatives of the grades that its phases ask for."""
    from multigrain.export.card import Lesson

    asked = {grade for phase in phases for grade in phase.grades}
    negatives: Counter[tuple[str, int]] = Counter()
    positives: list[str] = []
    for graded in read_tuples(run_dir.tuples):
        negatives.update((negative.source, negative.grade) for negative in graded.negatives if negative.grade in asked)
        if len(positives) < SAMPLED:
            positives.append(graded.positive)
    return Lesson(phases, negatives, _languages(positives), least_release(run_dir.trained))


def _languages(texts: Sequence[str]) -> list[str]:
    """Return the languages in which a good part of the texts is written, the most common first."""
    from multigrain.grading.language import language_of

    known = Counter(found[0] for text in texts if (found := language_of(text)))
    return [language for language, times in known.most_common() if times >= COMMON * known.total()]


def export_data(run_dir: RunDir, form: str, out: Path, force: bool, negatives: int | None) -> str:
    """Write the graded tuples in a form that another tool trains on."""
    from multigrain.export import interchange

    return interchange.export_data(lambda: read_tuples(run_dir.tuples), form, out, force, negatives)
