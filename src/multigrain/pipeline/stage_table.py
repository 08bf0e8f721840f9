"""The stages of a run in their order, what decides the outcome of each, and which are still to be done.

    data (-> pairs) -> synthesize -> grade -> train -> evaluate -> export

A stage is done when the manifest holds it with the fingerprint of its settings and of the files that it reads,
and the files that it writes are there. So a setting that leaves a stage's files as they were does not redo the
stages after it. Only a run whose pairs are written by the language model has the stage `pairs`.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from multigrain.config import Config
from multigrain.data.sources import files_of
from multigrain.evaluation.tasks import HELD_OUT, MTEB, files_of_task
from multigrain.files import count_lines, digest_of
from multigrain.model.files import model_digest, model_files
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.stages.data import data
from multigrain.pipeline.stages.evaluate import evaluate as evaluate_stage
from multigrain.pipeline.stages.export import export
from multigrain.pipeline.stages.grade import grade as grade_stage
from multigrain.pipeline.stages.pairs import pairs
from multigrain.pipeline.stages.synthesize import synthesize as synthesize_stage
from multigrain.pipeline.stages.train import train as train_stage
from multigrain.synthesis.prompts import files_in


@dataclass(frozen=True)
class Stage:
    """A step of the run: what it does, the settings that decide its outcome, what it reads and writes."""

    name: str
    work: Callable[[Config, RunDir], Result]
    sections: tuple[str, ...]
    reads: Callable[[Config, RunDir], list[Path]]
    writes: Callable[[Config, RunDir], list[Path]]
    applies: Callable[[Config], bool] = lambda config: True
    """Whether a run has this stage at all."""
    cut: Callable[[Config, RunDir], str] = lambda config, run: ""
    """To how many inputs the length of training cuts what is asked, if it does. So other steps alone redo nothing."""

    models: Callable[[Config], list[str]] = lambda config: []
    """The models that it reads."""

    def fingerprint(self, config: Config, run_dir: RunDir) -> str:
        """A digest of all that decides the outcome."""
        parts = [config.fingerprint("seed", *self.sections)]
        parts += [_file_digest(path) for path in self.reads(config, run_dir)]
        parts.append(self.cut(config, run_dir))
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    def is_done(self, config: Config, run_dir: RunDir) -> bool:
        """Whether its result is there and still holds."""
        entry = run_dir.stages().get(self.name)
        if entry is None or not all(path.exists() for path in self.writes(config, run_dir)):
            return False
        return entry.fingerprint == self.fingerprint(config, run_dir)


def _present(path: Path) -> list[Path]:
    """A file that run folders of earlier versions do not have."""
    return [path] if path.is_file() else []


def _negatives_cut(config: Config, run_dir: RunDir) -> str:
    limit = config.synthesis.limit
    count = _count_lines(run_dir.train_pairs)
    return _cut(config.pairs_asked, count if limit is None else min(limit, count))


def _cut(asked: int, wanted: int) -> str:
    return f"asked {asked}" if asked < wanted else ""


def _count_lines(path: Path) -> int:
    """How many records a file holds, counted once while it stays the same; none where it is not there yet."""
    try:
        state = path.stat()
        return _lines_at(path, state.st_ino, state.st_mtime_ns, state.st_size)
    except OSError:
        return 0


@cache
def _lines_at(path: Path, _inode: int, _changed: int, _size: int) -> int:
    return count_lines(path)


DATA_FILES: dict[str, Callable[[RunDir], list[Path]]] = {
    "negatives": lambda run: [run.train_pairs, run.held_out_pairs, run.corpus, run.given, *_present(run.other_pairs)],
    "corpus": lambda run: [run.passages, run.corpus],
    "tasks": lambda run: [],
}
"""What the stage `data` writes, by the run's mode."""
PAIR_SOURCES: dict[str, Callable[[RunDir], list[Path]]] = {
    "negatives": lambda run: [],
    "corpus": lambda run: [run.passages, run.corpus],
    "tasks": lambda run: [],
}
"""What the stage `pairs` reads."""
PAIRS_CUT: dict[str, Callable[[Config, RunDir], str]] = {
    "negatives": lambda config, run: "",
    "corpus": lambda config, run: _cut(config.passages_asked, _count_lines(run.passages)),
    "tasks": lambda config, run: _cut(config.pairs_invented_each, config.synthesis.pairs_per_task),
}
"""How the stage `pairs` is cut."""

STAGES = (
    Stage(
        "data",
        data,
        ("data", "asked", "drawing"),
        lambda config, run: _input_files([config.data.pairs, config.data.corpus, *config.evaluation.tasks]),
        lambda config, run: DATA_FILES[config.synthesis.mode](run),
    ),
    Stage(
        "pairs",
        pairs,
        ("llm", "synthesis", "judging", "filtering"),
        lambda config, run: [*PAIR_SOURCES[config.synthesis.mode](run), *_asking_files(config)],
        lambda config, run: [
            *(run.train_pairs, run.held_out_pairs, *_present(run.other_pairs)),
            *([run.corpus] if config.synthesis.mode == "tasks" else []),
        ],
        models=lambda config: [config.grading.judge_model],
        applies=lambda config: config.synthesis.mode != "negatives",
        cut=lambda config, run: PAIRS_CUT[config.synthesis.mode](config, run),
    ),
    Stage(
        "synthesize",
        synthesize_stage,
        ("llm", "synthesis", "mining", "judging"),
        lambda config, run: [*run.pair_files(), run.corpus, run.given, *_asking_files(config)],
        lambda config, run: [run.candidates, run.parked],
        cut=_negatives_cut,
        models=lambda config: [config.grading.judge_model],
    ),
    Stage(
        "grade",
        grade_stage,
        ("llm", "grading", "synthesis", "mining"),
        lambda config, run: [
            *run.pair_files(),
            *(run.corpus, run.candidates),
            *_asking_files(config),
            *_cross_encoder_files(config),
        ],
        lambda config, run: [run.tuples, run.dropped, run.report],
        cut=_negatives_cut,
        models=lambda config: [name for name in (config.grading.judge_model, config.grading.cross_encoder) if name],
    ),
    Stage(
        "train",
        train_stage,
        ("model", "training"),
        lambda config, run: [run.tuples, *run.pair_files(), *model_files(config.model.base)],
        lambda config, run: [run.trained, run.curriculum],
        models=lambda config: [config.model.base],
    ),
    Stage(
        "evaluate",
        evaluate_stage,
        ("model", "evaluation"),
        lambda config, run: [
            *model_files(str(run.trained)),
            *model_files(config.model.base),
            *(*run.pair_files(), run.corpus),
            *_input_files(config.evaluation.tasks),
        ],
        lambda config, run: [run.scores, run.per_query, run.examples],
        models=lambda config: [config.model.base],
    ),
    Stage(
        "export",
        export,
        ("name", "data", "llm", "model", "training", "export"),
        lambda config, run: [*model_files(str(run.trained)), run.scores],
        lambda config, run: [run.model],
    ),
)


SHARED = ("data", "pairs", "synthesize", "grade")
"""The stages that runs take over from each other."""


def stages_of(config: Config) -> list[Stage]:
    """The stages that a run has, in order."""
    return [stage for stage in STAGES if stage.applies(config)]


def names_of(config: Config) -> list[str]:
    """Their names."""
    return [stage.name for stage in stages_of(config)]


def finished(config: Config, run_dir: RunDir) -> list[str]:
    """The stages that are done, by name."""
    return [stage.name for stage in stages_of(config) if stage.is_done(config, run_dir)]


def inputs_digest(config: Config) -> str:
    """A digest of what a run starts from: data, prompts, judge and base."""
    files = [*_asking_files(config), *model_files(config.model.base)]
    digests = [STAGES[0].fingerprint(config, RunDir(config.folder)), *(_file_digest(path) for path in files)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def is_outdated(config: Config, run_dir: RunDir) -> bool:
    """Whether the folder holds a finished stage that changed settings, data files or models would do otherwise."""
    if changed_models(config, run_dir):
        return True
    suspects = stages_of(config) if run_dir.changed(config) else STAGES[:1]
    for stage in suspects:
        entry = run_dir.stages().get(stage.name)
        if entry is None or not all(path.exists() for path in stage.writes(config, run_dir)):
            return False  # the later ones, if any, will be made from this one
        if entry.fingerprint != stage.fingerprint(config, run_dir):
            return True
    return False


def changed_models(config: Config, run_dir: RunDir) -> list[str]:
    """The models whose files are not those that the first finished stage that would come out otherwise has read."""
    for stage in stages_of(config):
        entry = run_dir.stages().get(stage.name)
        if entry is None or not all(path.exists() for path in stage.writes(config, run_dir)):
            return []  # the later ones, if any, will be made from this one
        if entry.fingerprint != stage.fingerprint(config, run_dir):
            known = entry.models
            return [name for name in stage.models(config) if known.get(name, "") not in ("", model_digest(name))]
    return []


def _file_digest(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError:
        return "absent"  # the stage itself will say so, with the right message


def _asking_files(config: Config) -> list[Path]:
    """What decides how a language model is asked, and how its texts are judged."""
    return [*files_in(config.synthesis.prompts), *model_files(config.grading.judge_model)]


def _cross_encoder_files(config: Config) -> list[Path]:
    grading = config.grading
    return model_files(grading.cross_encoder) if grading.cross_encoder and "cross-encoder" in grading.judge else []


def _input_files(sources: Iterable[str | None]) -> list[Path]:
    return [path for source in sources if source for path in _files_of_source(source)]


def _files_of_source(source: str) -> list[Path]:
    if source == HELD_OUT or source.startswith(MTEB):
        return []
    return files_of_task(source) or files_of(source)
