"""The settings of the training: from the run's file, or chosen by `multigrain tune`."""

import json
from typing import Any, NamedTuple

from pydantic import ValidationError

from multigrain.config import EITHER, Config, ModelSection, given_in
from multigrain.files import digest_of
from multigrain.model.files import model_digest
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_files import adapted_model, teacher_files, training_models


class Choice(NamedTuple):
    """The choice of tune, and its reason."""

    settings: dict[str, Any]
    """Chosen settings of `[training]`; empty if no recipe was clearly better than the current settings."""
    reason: str
    """Reason of the choice, in words."""


def as_given(config: Config, _run_dir: RunDir) -> Config:
    """Return the configuration unchanged."""
    return config


def training_inputs(config: Config, run_dir: RunDir) -> str:
    """Return a digest of everything that determines a training: settings, tuples, pairs and models."""
    names = [*training_models(config), *adapted_model(config, run_dir)]
    models = " ".join(model_digest(name) for name in names)
    settings = config.fingerprint("seed", "model", "training", "teaching")
    taught = " ".join(digest_of(path) for path in teacher_files(config, run_dir))
    return f"{settings} {texts_digest(run_dir)} {taught} {models}\n"


def adaptation_inputs(config: Config, run_dir: RunDir) -> str:
    """Return a digest of everything that determines an adaptation: settings, texts and base."""
    texts = " ".join(digest_of(path) for path in (run_dir.corpus, run_dir.train_pairs))
    return f"{config.fingerprint('seed', 'adapt', 'attending')} {texts} {model_digest(config.model.base)}\n"


def texts_digest(run_dir: RunDir) -> str:
    """Return the digests of the texts of a training: tuples and pairs."""
    return " ".join(digest_of(path) for path in (run_dir.tuples, *run_dir.pair_files()))


def with_recipe(config: Config, run_dir: RunDir) -> Config:
    """Return the configuration to train with: for `training.recipe = "auto"`, with the settings that tune chose.

    A choice is valid for the settings, data and base that it was made with. Settings given in the run's file are never
    replaced.
    """
    found = choice_of(config, run_dir)
    return with_training(config, found.settings) if found is not None and found.settings else config


def model_to_train(config: Config, run_dir: RunDir) -> ModelSection:
    """Return the settings of the model to train; its base is the adapted one, if the run adapts it."""
    adapted = adapted_model(config, run_dir)
    return config.model.model_copy(update={"base": adapted[0]}) if adapted else config.model


def with_training(config: Config, settings: dict[str, Any]) -> Config:
    """Return the configuration with other settings of `[training]`.

    Raises:
        ValidationError: they contradict each other, or other settings of the run.
    """
    described = config.model_dump(exclude_none=True)
    kept = {key: value for key, value in described["training"].items() if EITHER.get(key) not in settings}
    described["training"] = kept | settings
    return Config.model_validate(described)


def choice_of(config: Config, run_dir: RunDir) -> Choice | None:
    """Return the choice of tune for these settings, data and base; None if there is none, or `recipe` is `fixed`."""
    if config.training.recipe == "fixed" or (found := _written(run_dir)) is None:
        return None
    settings, reason, inputs = found
    try:
        holds = inputs == training_inputs(config, run_dir) and given_in(config.training).isdisjoint(settings)
        with_training(config, settings)
    except (OSError, ValidationError):  # a file of the run is missing, or the table was edited
        return None
    return Choice(settings, reason) if holds else None


def told(config: Config, run_dir: RunDir) -> str | None:
    """Describe the settings that the model is trained with, and their origin; None if tune was not run."""
    if config.training.recipe == "fixed" or not run_dir.tuning.is_file():
        return None
    found = choice_of(config, run_dir)
    if found is None:
        return f"the current settings: {run_dir.tuning} is for other settings, data or base. Run: multigrain tune"
    settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in found.settings.items())
    return f"{settings or 'the current settings'}, from {run_dir.tuning}: {found.reason}"


def _written(run_dir: RunDir) -> tuple[dict[str, Any], str, str] | None:
    """Return the content of the table: settings, reason, and the digest of the inputs of the choice."""
    try:
        table = json.loads(run_dir.tuning.read_bytes())
        settings, reason, inputs = table["chosen"], table["reason"], table["inputs"]
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged
        return None
    is_good = isinstance(settings, dict) and isinstance(reason, str) and isinstance(inputs, str)
    return (settings, reason, inputs) if is_good else None
