"""Tell which results of a run folder hold under a configuration, and which would come out otherwise."""

from typing import NamedTuple

from multigrain.config import Config
from multigrain.model.files import model_digest, model_files
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage import Stage, file_digest, short_digest
from multigrain.pipeline.stage_files import prompting_files
from multigrain.pipeline.stage_table import STAGES, stages_of


class Freshness(NamedTuple):
    """The outcome of comparing a run folder with a configuration."""

    is_outdated: bool
    """Whether it holds a finished stage that changed settings, data files or models would do otherwise."""
    changed_models: list[str]
    """The names of the models whose files have changed since that stage has read them."""


def finished(config: Config, run_dir: RunDir) -> list[str]:
    """Return the names of the stages that are done, in order."""
    return [stage.name for stage in stages_of(config) if stage.is_done(config, run_dir)]


def freshness_of(config: Config, run_dir: RunDir) -> Freshness:
    """Compare a run folder with a configuration."""
    stage = _first_outdated(config, run_dir)
    if stage is None:
        return Freshness(is_outdated=False, changed_models=[])
    models = _changed_models(stage, config, run_dir)
    # Without changed settings or models, only input files make the folder another run's; stages read these first.
    is_outdated = bool(models) or stage is STAGES[0] or bool(run_dir.changed(config))
    return Freshness(is_outdated, models)


def _first_outdated(config: Config, run_dir: RunDir) -> Stage | None:
    """Return the first stage whose result is there and would come out otherwise.

    The search ends at the first stage without a result: the later ones, if any, will be made from it.
    """
    for stage in stages_of(config):
        if not stage.has_result(config, run_dir):
            return None
        if not stage.has_fingerprint(stage.fingerprint(config, run_dir), run_dir):
            return stage
    return None


def _changed_models(stage: Stage, config: Config, run_dir: RunDir) -> list[str]:
    known = run_dir.stages()[stage.name].models
    return [name for name in stage.models(config) if known.get(name, "") not in ("", model_digest(name))]


def inputs_digest(config: Config) -> str:
    """Return a digest of what a run starts from: data, prompts, judge and base."""
    digests = [STAGES[0].fingerprint(config, RunDir(config.folder))]
    digests += [file_digest(path) for path in [*prompting_files(config), *model_files(config.model.base)]]
    return short_digest(digests)
