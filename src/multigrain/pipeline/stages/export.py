"""Export the results of a run: the model, and the tuples."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.config import Config, PhaseSection
from multigrain.data.jsonl import read_pairs, read_tuples
from multigrain.files import atomic_folder
from multigrain.model.older_settings import brings_code, least_release
from multigrain.model.prompts import prompts_of
from multigrain.pipeline.choice import TRAINED, Choice, as_exported, read_choice
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.summary import summarize
from multigrain.pipeline.verdict import BASE

if TYPE_CHECKING:
    from multigrain.export.card import Lesson


SAMPLED = 1000
"""Number of positives used to detect the languages of the data."""
COMMON = 0.1
"""Minimum share of a language, among texts of known language, to count as a language of the model."""


def export(config: Config, run_dir: RunDir) -> Result:
    """Write the folder of the chosen model, with its card."""
    from multigrain.export.card import model_card
    from multigrain.export.model_folder import export_model

    choice = read_choice(run_dir)
    summary = as_exported(summarize(config, run_dir, list(run_dir.stages())), choice.model)
    with _folder_of(choice.model, config, run_dir) as folder:
        card = model_card(config, summary, prompts_of(str(folder)) or {}, _lesson(run_dir, folder, choice))
        export_model(folder, run_dir.model, card, config.export)
    return Result({"files": sum(path.is_file() for path in run_dir.model.rglob("*"))})


@contextmanager
def _folder_of(model: str, config: Config, run_dir: RunDir) -> Iterator[Path]:
    """Yield the folder of the chosen model; the base is written first, with the prompts it was measured with."""
    if model != BASE:
        yield run_dir.trained if model == TRAINED else run_dir.baseline / model
        return
    from multigrain.pipeline.encoders import load_measured_base

    folder = run_dir.baseline / BASE
    with atomic_folder(folder) as part:
        load_measured_base(config).save_pretrained(str(part), create_model_card=False)
    yield folder
    shutil.rmtree(folder)


def _lesson(run_dir: RunDir, folder: Path, choice: Choice) -> "Lesson":
    """Collect the facts for the card about the training of the exported model, and about the choice."""
    if choice.model == TRAINED:
        phases = [PhaseSection(**phase) for phase in json.loads(run_dir.curriculum.read_text(encoding="utf-8"))]
        return replace(_own_lesson(run_dir, phases), choice=choice.reason)
    from multigrain.export.card import Lesson

    positives = islice((pair.positive for pair in read_pairs(run_dir.train_pairs)), SAMPLED)
    languages, release = _languages(list(positives)), least_release(folder)
    stock = None if choice.model == BASE else json.loads(run_dir.arms.read_text(encoding="utf-8"))["arms"][choice.model]
    return Lesson([], {}, languages, release, choice.model, stock, choice.reason, brings_code(folder))


def _own_lesson(run_dir: RunDir, phases: Sequence[PhaseSection]) -> "Lesson":
    """Collect the facts about the negatives that training could see: those of the grades in its phases."""
    from multigrain.export.card import Lesson

    asked = {grade for phase in phases for grade in phase.grades}
    negatives: Counter[tuple[str, int]] = Counter()
    positives: list[str] = []
    for graded in read_tuples(run_dir.tuples):
        negatives.update((negative.source, negative.grade) for negative in graded.negatives if negative.grade in asked)
        if len(positives) < SAMPLED:
            positives.append(graded.positive)
    release, with_code = least_release(run_dir.trained), brings_code(run_dir.trained)
    return Lesson(phases, negatives, _languages(positives), release, with_code=with_code)


def _languages(texts: Sequence[str]) -> list[str]:
    """Return the languages of a large share of the texts, the most common first."""
    from multigrain.grading.language import language_of

    known = Counter(found[0] for text in texts if (found := language_of(text)))
    return [language for language, times in known.most_common() if times >= COMMON * known.total()]


def export_data(run_dir: RunDir, form: str, out: Path, force: bool, negatives: int | None) -> str:
    """Write the graded tuples in the form of another tool."""
    from multigrain.export import interchange

    return interchange.export_data(lambda: read_tuples(run_dir.tuples), form, out, force, negatives)
