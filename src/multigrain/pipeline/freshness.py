"""Find the results in a run folder that are valid for a configuration, and those that are outdated."""

from typing import NamedTuple

from multigrain.config import Config
from multigrain.model.files import model_digest, model_files
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage import Stage, file_digest, short_digest
from multigrain.pipeline.stage_files import prompting_files
from multigrain.pipeline.stage_table import STAGES, stages_of


class Freshness(NamedTuple):
    """The result of comparing a run folder with a configuration."""

    is_outdated: bool
    """Whether changed settings, data files or models would change the result of a finished stage."""
    changed_models: list[str]
    """Names of the models whose files have changed since that stage read them."""


def finished(config: Config, run_dir: RunDir) -> list[str]:
    """Return the names of the stages that are done, in order."""
    return [stage.name for stage in stages_of(config) if stage.is_done(config, run_dir)]


def freshness_of(config: Config, run_dir: RunDir) -> Freshness:
    """Compare a run folder with a configuration."""
    stage = _first_outdated(config, run_dir)
    if stage is None:
        return Freshness(is_outdated=False, changed_models=[])
    models = _changed_models(stage, config, run_dir)
    # If neither settings nor models changed, only changed input files matter, and the first stage reads these.
    is_outdated = bool(models) or stage is STAGES[0] or bool(run_dir.changed(config))
    return Freshness(is_outdated, models)


def _first_outdated(config: Config, run_dir: RunDir) -> Stage | None:
    """Return the first stage whose result exists and is outdated.

    The search ends at the first stage without a result, because later results will be made from it.
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
    """Return a digest of the inputs of a run: data, prompts, judge and base."""
    digests = [STAGES[0].fingerprint(config, RunDir(config.folder))]
    digests += [file_digest(path) for path in [*prompting_files(config), *model_files(config.model.base)]]
    return short_digest(digests)
