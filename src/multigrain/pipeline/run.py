"""Run the stages that are still to be done."""

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.errors import RunError
from multigrain.files import full_disk_explained, write_json
from multigrain.model.files import model_digest
from multigrain.pipeline.generation import ask
from multigrain.pipeline.generation.prompt_style import decided
from multigrain.pipeline.preflight import require
from multigrain.pipeline.reuse import adopt, inherit
from multigrain.pipeline.run_dir import RunDir, StageRecord
from multigrain.pipeline.stage_table import SHARED, Stage, changed_models, finished, is_outdated, names_of, stages_of
from multigrain.pipeline.stages.evaluate import foresee, require_sound
from multigrain.pipeline.summary import summarize
from multigrain.progress import counted, listed, say
from multigrain.training.schedules import phases_of
from multigrain.version import __version__


def run_stages(
    config: Config,
    names: list[str],
    force: bool,
    redo: tuple[str, ...] = (),
    retry: str | None = None,
    donors: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run those of the stages that are not done, and return the summary.

    Args:
        config: the run.
        names: the stages that are wanted.
        force: redo finished stages that this configuration would do otherwise.
        redo: stages to do again in any case.
        retry: see `multigrain.pipeline.verbs.synthesize`.
        donors: run folders whose stages are taken over where they would come out the same.

    Raises:
        RunError: a stage before them is not done.
        MultigrainError: what `require`, `foresee` and the stages raise.
    """
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
            say(f"put back: {counted(ask.retry(decided(config, run_dir), run_dir, retry), 'inputs')}")
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
