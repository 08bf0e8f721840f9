"""Run the stages of a run that are not done yet."""

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.errors import RunError
from multigrain.files import full_disk_explained, remove_parts, write_json
from multigrain.model.engine import LOCAL, Engine
from multigrain.model.files import model_digest
from multigrain.pipeline.choice import settle
from multigrain.pipeline.freshness import finished, freshness_of
from multigrain.pipeline.generation import ask
from multigrain.pipeline.generation.prompt_style import with_known_style
from multigrain.pipeline.preflight import require_inputs
from multigrain.pipeline.recipe import told
from multigrain.pipeline.reuse import share_answers, take_over_stage
from multigrain.pipeline.run_dir import RunDir, StageRecord
from multigrain.pipeline.spoiled_model import require_sound
from multigrain.pipeline.stage import Stage
from multigrain.pipeline.stage_table import SHARED, STAGES, names_of, stages_of
from multigrain.pipeline.summary import summarize
from multigrain.terminal import counted, listed, named, say
from multigrain.version import __version__

GENERATING = ("pairs", "synthesize", "grade")
"""Stages that may ask a language model."""

Start = Callable[[], AbstractContextManager[Engine]]
"""Starts an engine, and ends it with the block."""


def run_stages(
    config: Config,
    names: list[str],
    force: bool,
    redo: tuple[str, ...] = (),
    retry: str | None = None,
    donors: Sequence[Path] = (),
    start: Start | None = None,
) -> dict[str, Any]:
    """Run the stages that are not done, and return the summary.

    Args:
        config: the run.
        names: the wanted stages.
        force: redo finished stages whose results this configuration would change.
        redo: stages to redo in any case.
        retry: see `multigrain.pipeline.verbs.synthesize`.
        donors: run folders from which stages with the same result are reused.
        start: starts the engine that does the shards of work, if a stage has any; None for this process.

    Raises:
        RunError: an earlier stage is not done.
        MultigrainError: see `require_inputs` and the stages.
    """
    run_dir = RunDir(config.folder)
    done = finished(config, run_dir)
    to_do = {*names} - ({*done} - {*redo})
    require_inputs(config, asks=not to_do.isdisjoint(GENERATING), evaluates="evaluate" in to_do)
    with full_disk_explained(run_dir.folder), run_dir.lock(), _engine(start, to_do) as engine:
        remove_parts(run_dir.folder)
        share_answers([RunDir(folder) for folder in donors], config, run_dir)
        _claim(config, run_dir, names[0], done, force)
        if retry is not None:
            count = ask.retry(with_known_style(config, run_dir), run_dir, retry)
            say(f"to be asked again: {counted(count, 'inputs')}")
        for stage in stages_of(config):
            if stage.name in names:
                if stage.name == "export":
                    _settle_export(stage, config, run_dir, stage.name in redo, force)
                _bring_about(stage, config, run_dir, stage.name in redo, donors, engine)
        summary = summarize(config, run_dir, finished(config, run_dir))
        write_json(run_dir.summary, summary)
        return summary


def _claim(config: Config, run_dir: RunDir, first: str, done: Collection[str], force: bool) -> None:
    """Claim the run folder for this configuration.

    Raises:
        RunError: a stage before the first wanted one is not done.
        ConfigError: the folder holds results of other settings, and `force` is off.
    """
    freshness = freshness_of(config, run_dir)
    may_claim = force or not freshness.is_outdated
    names = names_of(config)
    missing = [name for name in names[: names.index(first)] if name not in done]
    if missing and may_claim:
        raise _stage_before(config, missing[0], freshness.is_outdated)
    run_dir.claim(config, may_claim, freshness.changed_models)


@contextmanager
def _engine(start: Start | None, to_do: Collection[str]) -> Iterator[Engine]:
    """Start the engine, if one is wanted and a stage to be done has shards; otherwise yield that of this process."""
    if start is None:
        yield LOCAL
        return
    spread = [stage.name for stage in STAGES if stage.is_spread and stage.name in to_do]
    if not spread:
        say("no stage that is left uses Ray; all run in this process")
        yield LOCAL
        return
    with start() as engine:
        say(f"{engine}; used by {named(spread)}. Other stages run in this process")
        yield engine


def _bring_about(
    stage: Stage, config: Config, run_dir: RunDir, again: bool, donors: Sequence[Path], engine: Engine
) -> None:
    """Keep a stage that is done; otherwise reuse it from another run, or run it."""
    if stage.is_done(config, run_dir) and not again:
        say(f"{stage.name}: already done ({listed(run_dir.stages()[stage.name].counts)})")
        _clear_up(stage, run_dir)  # the process may have been killed before it did this
    elif donor := _donor(stage, config, run_dir, donors):
        files = [run_dir.folder / path.relative_to(donor.folder) for path in stage.writes(config, donor)]
        take_over_stage(stage.name, files, donor, run_dir)
        say(f"{stage.name}: reused from {donor.folder}")
    else:
        if again and stage.name == "train":  # the finished checkpoints would end the new training at once
            run_dir.training_fingerprint.unlink(missing_ok=True)
        _run_stage(stage, config, run_dir, engine)


def _settle_export(stage: Stage, config: Config, run_dir: RunDir, again: bool, force: bool) -> None:
    """Choose the model to export, if the export is not done yet.

    Raises:
        TrainingFailed: the training has spoiled the model.
        RunError: the model has lost to its base.
    """
    if again or not stage.is_done(config, run_dir):
        require_sound(run_dir)
        settle(config, run_dir, force)


def _run_stage(stage: Stage, config: Config, run_dir: RunDir, engine: Engine) -> None:
    say(f"{stage.name} ...")
    if stage.name == "train" and (choice := told(config, run_dir)):
        say(f"  {choice}")
    started = time.monotonic()
    fingerprint = stage.fingerprint(config, run_dir)
    run_dir.forget(stage.name)  # its files are incomplete from here on
    if stage.name == "train":
        run_dir.forget("evaluate")  # the old model's scores must not pass for the new model's
    settings = stage.settings(config, run_dir)
    models = {name: model_digest(name) for name in stage.models(settings)}
    result = stage.work(settings, run_dir, engine) if stage.is_spread else stage.work(settings, run_dir)
    seconds = round(time.monotonic() - started, 1)
    entry = StageRecord(
        fingerprint=fingerprint,
        version=__version__,
        seed=config.seed,
        seconds=seconds,
        counts=result.counts,
        tokens=result.tokens,
        cost=result.cost,
        models=models,
    )
    run_dir.record(stage.name, entry)
    _clear_up(stage, run_dir)
    say(f"{stage.name}: {listed(result.counts)} ({seconds:.0f} s)")


def _clear_up(stage: Stage, run_dir: RunDir) -> None:
    """Remove the checkpoints of a finished adaptation or training."""
    for name, folder in (("adapt", run_dir.adaptation), ("train", run_dir.training)):
        if stage.name == name:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _donor(stage: Stage, config: Config, run_dir: RunDir, donors: Iterable[Path]) -> RunDir | None:
    """Return the first folder in which the stage has the result it would have here; never for trained models."""
    if stage.name not in SHARED:
        return None
    fingerprint = stage.fingerprint(config, run_dir)
    for donor in map(RunDir, donors):
        if stage.has_result(config, donor) and stage.has_fingerprint(fingerprint, donor):
            return donor
    return None


def _stage_before(config: Config, name: str, outdated: bool) -> RunError:
    if outdated:
        fault = f"the earlier stage {name} is outdated by these settings or input files"
        return RunError(f"{config.folder}: {fault}. Run: multigrain run RUN.toml --force")
    verb = {"data": "synthesize", "pairs": "synthesize", "baseline": "evaluate"}.get(name, name)
    return RunError(f"{config.folder}: the earlier stage {verb} is not done. Run: multigrain {verb} RUN.toml")
