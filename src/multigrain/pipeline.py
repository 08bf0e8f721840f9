"""The stages of a run in their order, what decides the outcome of each, and which are still to be done.

    data (-> pairs) -> synthesize -> grade -> train -> evaluate -> export

A stage is done when the manifest holds it with the fingerprint of its settings and of the files that it reads,
and the files that it writes are there. So a setting that leaves a stage's files as they were does not redo the
stages after it. Only a run whose pairs are written by the language model has the stage `pairs`.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from multigrain import __version__, asking, batching, processes
from multigrain.adoption import adopt, inherit
from multigrain.config import Config, as_path, config_of
from multigrain.data.sources import files_of
from multigrain.disk import digest_of, full_disk_explained
from multigrain.errors import ConfigError, RunError
from multigrain.evaluation.tasks import HELD_OUT, MTEB, files_of_task
from multigrain.jsonl import write_json
from multigrain.model.files import model_digest, model_files
from multigrain.preflight import require
from multigrain.progress import counted, listed, say
from multigrain.prompts import files_in
from multigrain.records import Document
from multigrain.rundir import RunDir, StageRecord, run_folder_of
from multigrain.schedules import phases_of
from multigrain.stages import Result
from multigrain.stages.data import data
from multigrain.stages.evaluate import evaluate as evaluate_stage
from multigrain.stages.evaluate import foresee, require_sound
from multigrain.stages.export import export
from multigrain.stages.export import export_data as write_data
from multigrain.stages.export import search as search_run
from multigrain.stages.grade import grade as grade_stage
from multigrain.stages.pairs import pairs
from multigrain.stages.synthesize import synthesize as synthesize_stage
from multigrain.stages.train import take_part
from multigrain.stages.train import train as train_stage
from multigrain.style import decided
from multigrain.summary import summarize


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
    return asking.count_lines(path)


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


def run(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """All stages, those that are done already left out; returns the summary.

    Args:
        config: what to do; or the file that says so, or a run folder. So in all verbs.
        force: redo finished stages of the run folder that this configuration would do otherwise.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    config = config_of(config)
    return _run_stages(config, names_of(config), force)


def synthesize(config: Config | str | Path, force: bool = False, retry: str | None = None) -> dict[str, Any]:
    """Prepare the data, and have candidates written and mined; `force` does so again.

    Args:
        config: the run.
        force: see `run`. Answers are not asked for again.
        retry: put back the inputs that are parked for this reason (`all`: for any), and ask again.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    config = config_of(config)
    wanted = [name for name in names_of(config) if name in ("data", "pairs", "synthesize")]
    redo = tuple(wanted[1:]) if force or retry is not None else ()
    return _run_stages(config, wanted, force, redo, retry)


def grade(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Judge the candidates and make graded tuples of them; `force` does so again."""
    return _run_stages(config_of(config), ["grade"], force, redo=("grade",) if force else ())


def train(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Train the model along the curriculum; `force` does so again.

    Under `torchrun` every process calls it. The main one returns the summary; the others take part in the training
    alone, and return an empty one.
    """
    described = config_of(config)
    if not processes.is_main():
        processes.follow(lambda: take_part(described, RunDir(described.folder)))
        return {}
    with processes.leading():
        return _run_stages(described, ["train"], force, redo=("train",) if force else ())


def evaluate(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Measure the trained model and its base; `force` does so again.

    Raises:
        TrainingFailed: the trained model is far worse than its base.
    """
    described = config_of(config)
    summary = _run_stages(described, ["evaluate"], force, redo=("evaluate",) if force else ())
    require_sound(RunDir(described.folder))
    return summary


def export_model(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Write the folder that others load; `force` does so again."""
    return _run_stages(config_of(config), ["export"], force, redo=("export",) if force else ())


def export_data(
    folder: str | Path, form: str, out: str | Path, force: bool = False, negatives: int | None = None
) -> str:
    """Write a run's graded tuples in a form that another tool trains on; returns a line that says how to load it.

    Args:
        folder: the run folder, or its model's.
        form: `hf`, `sentence-transformers`, `flagembedding` or `tevatron`; see `multigrain.export.interchange`.
        out: the file to write, or for `hf` the folder.
        force: replace what is there.
        negatives: columns of negatives (`sentence-transformers` alone).

    Raises:
        RunError: the run has no graded tuples yet.
        ConfigError: see `multigrain.export.interchange.export_data`.
    """
    run_dir, file = RunDir(run_folder_of(folder)), as_path(out, "a file to write")
    if not run_dir.tuples.is_file():
        raise RunError(f"{folder}: no graded tuples here. Run: multigrain grade RUN.toml")
    with full_disk_explained(file.absolute().parent):
        return write_data(run_dir, form, file, force, negatives)


def search(folder: str | Path, query: str, k: int = 5) -> list[tuple[float, Document]]:
    """The documents of a run's corpus that its exported model finds nearest to the query, with their cosines.

    Args:
        folder: the run folder, or its model's.
        query: what to look for.
        k: how many documents.

    Raises:
        ConfigError: the query is no text, or k is not above 0.
        RunError: the run has no exported model yet.
    """
    if not isinstance(query, str) or not query.strip():
        raise ConfigError("search", [f"found the query {query!r}; wanted a text"])
    if type(k) is not int or k < 1:
        raise ConfigError("search", [f"found k = {k!r}; wanted a number of documents, from 1 on"])
    run_dir = RunDir(run_folder_of(folder))
    if not (run_dir.model / "modules.json").is_file():
        raise RunError(f"{folder}: no exported model here. Run: multigrain run RUN.toml")
    return search_run(run_dir, query, k)


def measure(config: Config, donors: Sequence[Path] = (), force: bool = False) -> None:
    """All stages up to the evaluation.

    Args:
        config: the run.
        donors: run folders whose stages are taken over where they would come out the same.
        force: see `run`.
    """
    _run_stages(config, [name for name in names_of(config) if name != "export"], force, donors=donors)


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


def batch(config: Config, step: str, force: bool = False) -> str:
    """One step of having the candidates written in batches, told in a few lines.

    Args:
        config: the run.
        step: `submit`, `write`, `status` or `ingest`; `synthesize` afterwards reads what came back.
        force: see `run`.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    require(config)
    if step in ("submit", "write"):
        phases_of(config.training)
        foresee(config)
        _run_stages(config, ["data"], force)
    run_dir = RunDir(config.folder)
    if not run_dir.folder.is_dir() or "data" not in run_dir.stages():
        return f"{config.folder}: no batches; --batch submit makes them"
    with full_disk_explained(run_dir.folder), run_dir.lock():
        steps = {
            "submit": batching.submit,
            "write": batching.write,
            "status": batching.status,
            "ingest": batching.ingest,
        }
        return steps[step](config, run_dir)


def _run_stages(
    config: Config,
    names: list[str],
    force: bool,
    redo: tuple[str, ...] = (),
    retry: str | None = None,
    donors: Sequence[Path] = (),
) -> dict[str, Any]:
    run_dir = RunDir(config.folder)
    done = finished(config, run_dir)
    asks = {"pairs", "synthesize", "grade"} & {*names} - ({*done} - {*redo})
    require(config, llm=bool(asks))
    if asks:
        phases_of(config.training)  # as if all grades will be there; whether they are is known too late
    if asks or "evaluate" in {*names} - ({*done} - {*redo}):
        foresee(config)
    with full_disk_explained(run_dir.folder), run_dir.lock():
        inherit([RunDir(folder) for folder in donors], config, run_dir)
        outdated = is_outdated(config, run_dir)
        names_in_order = names_of(config)
        before = names_in_order[: names_in_order.index(names[0])]
        if (missing := [name for name in before if name not in done]) and (force or not outdated):
            raise _stage_before(config, missing[0], outdated)
        run_dir.claim(config, force or not outdated, changed_models(config, run_dir))
        if retry is not None:
            say(f"put back: {counted(asking.retry(decided(config, run_dir), run_dir, retry), 'inputs')}")
        for stage in stages_of(config):
            if stage.name not in names:
                continue
            if stage.is_done(config, run_dir) and stage.name not in redo:
                say(f"{stage.name}: done already ({listed(run_dir.stages()[stage.name].counts)})")
            elif donor := _donor(stage, config, run_dir, donors):
                files = [run_dir.folder / path.relative_to(donor.folder) for path in stage.writes(config, donor)]
                adopt(stage.name, files, donor, run_dir)
                say(f"{stage.name}: as in {donor.folder}")
            else:
                if stage.name in redo and stage.name == "train":  # its checkpoints would end the new training at once
                    run_dir.training_fingerprint.unlink(missing_ok=True)
                _run_stage(stage, config, run_dir)
        summary = summarize(config, run_dir, finished(config, run_dir))
        write_json(run_dir.summary, summary)
        return summary


def _run_stage(stage: Stage, config: Config, run_dir: RunDir) -> None:
    if stage.name == "export":
        require_sound(run_dir)
    say(f"{stage.name} ...")
    started = time.monotonic()
    fingerprint = stage.fingerprint(config, run_dir)
    run_dir.forget(stage.name)  # from here on its files are in the making
    if stage.name == "train":
        run_dir.forget("evaluate")  # nobody shall take the last model's figures for the new one's
    models = {name: model_digest(name) for name in stage.models(config)}
    result = stage.work(config, run_dir)
    seconds = round(time.monotonic() - started, 1)
    spent = (result.counts, result.tokens, result.cost)
    entry = StageRecord(fingerprint, __version__, config.seed, seconds, *spent, models)
    run_dir.record(stage.name, entry)
    if stage.name == "train":  # nothing goes on from its checkpoints any more
        shutil.rmtree(run_dir.training / "checkpoints", ignore_errors=True)
    say(f"{stage.name}: {listed(result.counts)} ({seconds:.0f} s)")


def _donor(stage: Stage, config: Config, run_dir: RunDir, donors: Iterable[Path]) -> RunDir | None:
    """The first folder that has the stage done as it would be done here; trained models are taken from nobody."""
    if stage.name not in SHARED:
        return None
    fingerprint = stage.fingerprint(config, run_dir)
    for donor in map(RunDir, donors):
        entry = donor.stages().get(stage.name)
        files = stage.writes(config, donor)
        if entry is not None and entry.fingerprint == fingerprint and all(path.exists() for path in files):
            return donor
    return None


def _stage_before(config: Config, name: str, outdated: bool) -> RunError:
    if outdated:
        fault = f"{name}, a stage before, comes out otherwise with these settings or input files"
        return RunError(f"{config.folder}: {fault}. Run: multigrain run RUN.toml --force")
    verb = "synthesize" if name in ("data", "pairs") else name
    return RunError(f"{config.folder}: the stage before, {verb}, is not done. Run: multigrain {verb} RUN.toml")


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
