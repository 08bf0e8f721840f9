"""The section `[tune]`: the settings of `[training]` that the command `tune` tries, and its time limit."""

from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from multigrain.config.base import Section
from multigrain.config.training import TrainingSection

NOT_TRIED = ("seed", "steps", "epochs", "phases", "recipe", "evaluate", "report_to")
"""Settings of `[training]` that are not tried: tune sets them itself, or quality does not depend on them."""


class TuningSection(Section):
    """Settings of `multigrain tune`, which tries each of `recipes` with each combination of `values`."""

    minutes: float = Field(30.0, gt=0)
    """Time limit of all trials together, in minutes. It is checked between trials."""
    limit: int = Field(12, ge=2, le=256)
    """Maximum number of recipes to try, including the current settings. If there are more, they are drawn at random."""
    values: dict[str, list[Any]] = {"learning_rate": [2e-5, 5e-5, 1e-4, 2e-4], "base_share": [0.0, 0.2]}
    """Settings of `[training]`, each with the values to try."""
    recipes: list[dict[str, Any]] = [
        {"batch_size": 32, "schedule": "all-at-once"},
        {"batch_size": 64, "schedule": "hardest"},
        {"batch_size": 96, "schedule": "in-batch"},
    ]
    """Combinations of settings of `[training]` to try. The default ones trade batch size against negatives per pair, at
    the same number of texts per step if there are negatives of four grades."""

    @field_validator("values")
    @classmethod
    def _values_are_good(cls, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, tried in values.items():
            if not tried or len({str(value) for value in tried}) < len(tried):
                raise ValueError(f"{key}: found {tried}; wanted one or more different values")
            for value in tried:
                _require_good({key: value})
        return values

    @field_validator("recipes")
    @classmethod
    def _recipes_are_good(cls, recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for recipe in recipes:
            _require_good(recipe)
        return recipes

    @model_validator(mode="after")
    def _each_setting_once(self) -> "TuningSection":
        for recipe in self.recipes:
            if both := sorted(recipe.keys() & self.values.keys()):
                raise ValueError(f"{both[0]} is in both tune.values and tune.recipes; remove it from one of them")
        return self


def _require_good(settings: dict[str, Any]) -> None:
    """Check that `[training]` accepts these settings.

    Raises:
        ValueError: there is no such setting, its value is invalid, or the settings contradict each other. A single
            setting is not refused for contradicting others, which are not known here.
    """
    for key in settings:
        if key in NOT_TRIED or key not in TrainingSection.model_fields:
            known = ", ".join(name for name in TrainingSection.model_fields if name not in NOT_TRIED)
            raise ValueError(f"found {key}; wanted a setting of [training] that can be tried: {known}")
    try:
        TrainingSection.model_validate(settings)
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["loc"] or len(settings) > 1]
        if faults:
            raise ValueError(f"found {settings}: {faults[0]['msg'].removeprefix('Value error, ')}") from None


def given_in(section: TrainingSection) -> frozenset[str]:
    """Return the settings of `[training]` given by the user, which tune never overrides.

    The run.toml of a run folder lists all settings; there, those that differ from the default count as given.

    >>> sorted(given_in(TrainingSection(learning_rate=5e-5)))
    ['learning_rate']
    """
    stated = section.model_fields_set
    fields = type(section).model_fields
    in_force = {name for name in fields if getattr(section, name) is not None}
    if not stated >= in_force:
        return frozenset(stated)
    return frozenset(name for name in in_force if getattr(section, name) != fields[name].get_default())
