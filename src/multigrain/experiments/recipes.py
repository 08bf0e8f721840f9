"""The recipes of `tune`: settings of `[training]` that are tried against the current settings."""

import json
import random
from itertools import product
from typing import Any

from pydantic import ValidationError

from multigrain.config import Config, given_in
from multigrain.errors import ConfigError
from multigrain.pipeline.recipe import with_training
from multigrain.terminal import counted, say
from multigrain.training.grade_schedules import phases_of

Settings = dict[str, Any]
"""Settings of `[training]`."""


def recipes_of(config: Config, grades: set[int]) -> list[Settings]:
    """Return the recipes; the first is the current settings, an empty recipe.

    Settings given in the run's file are not varied. Recipes that would change one of them are left out, and so are
    recipes that contradict the other settings. If there are more than `tune.limit`, they are drawn by the run's seed.

    Args:
        config: the run.
        grades: the grades of the negatives.

    Raises:
        ConfigError: there is nothing to choose from.
    """
    section, given = config.training, given_in(config.training)
    values = {key: tried for key, tried in config.tune.values.items() if key not in given}
    recipes = [recipe for recipe in config.tune.recipes if _agrees(recipe, config, given)] or [{}]
    found: dict[str, Settings] = {"{}": {}}
    for recipe, *chosen in product(recipes, *values.values()):
        settings = {key: value for key, value in recipe.items() if key not in given}
        settings |= dict(zip(values, chosen, strict=True))
        other = {key: value for key, value in settings.items() if value != getattr(section, key)}
        found.setdefault(json.dumps(other, sort_keys=True), other)
    _tell_given(config, given)
    others = [settings for settings in list(found.values())[1:] if _can_train(settings, config, grades)]
    if left_out := len(found) - 1 - len(others):
        say(f"  {counted(left_out, 'recipes')} left out: they contradict other settings, or need missing grades")
    if not others:
        raise ConfigError("tune", ["found no recipe besides the current settings; wanted another value or recipe"])
    if len(others) >= config.tune.limit:
        others = random.Random(f"{config.seed} recipes").sample(others, config.tune.limit - 1)
    return [{}, *others]


def _agrees(recipe: Settings, config: Config, given: frozenset[str]) -> bool:
    return all(key not in given or value == getattr(config.training, key) for key, value in recipe.items())


def _tell_given(config: Config, given: frozenset[str]) -> None:
    tried = {*config.tune.values, *(key for recipe in config.tune.recipes for key in recipe)}
    for key in sorted(tried & given):
        say(f"  training.{key} = {json.dumps(getattr(config.training, key))} is given; tune does not vary it")


def _can_train(settings: Settings, config: Config, grades: set[int]) -> bool:
    try:
        phases_of(with_training(config, settings).training, grades)
    except (ValidationError, ConfigError):
        return False
    return True
