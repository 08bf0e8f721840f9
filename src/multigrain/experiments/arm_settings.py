"""The settings of each arm of a grid: the run's settings with the arm's own merged in."""

from pathlib import Path
from typing import Any

from multigrain.config import EITHER, resolve_paths, validated
from multigrain.errors import ConfigError
from multigrain.evaluation.tasks import HELD_OUT
from multigrain.terminal import named

Settings = dict[str, Any]
"""Settings as in TOML: tables and their values."""


def settings_of_arms(path: Path, run: Settings, arms: dict[str, Settings]) -> dict[str, Settings]:
    """Return the checked settings of each arm. Paths in `arms` are made absolute in place.

    Args:
        path: the grid's TOML file; paths in its arms are relative to it.
        run: the settings of the run that the arms vary.
        arms: each arm's own settings.

    Raises:
        ConfigError: lists every fault of the arms, or gives the first reason why they could not be compared.
    """
    settings: dict[str, Settings] = {}
    faults: list[str] = []
    for name, own in arms.items():
        faults += [f"arms.{name}.{fault}" for fault in resolve_paths(own, path.parent)]
        settings[name] = merged(run, own)
        try:
            validated(settings[name], name)
        except ConfigError as error:
            faults += [f"arms.{name}.{fault}" for fault in error.faults]
    if faults:
        raise ConfigError(path, faults)
    _require_comparable(path, settings)
    return settings


def _require_comparable(path: Path, arms: dict[str, Settings]) -> None:
    """Check that all arms are measured on the same items, before hours are spent on training."""
    measured_on = {name: _measured_on(settings) for name, settings in arms.items()}
    first = next(iter(arms))
    for name, decisive in measured_on.items():
        for key, value in decisive.items():
            if value != measured_on[first][key]:
                fault = f"arms.{name}: {key} differs from that of {named([first])}, so the arms could not be compared"
                raise ConfigError(path, [fault])


def _measured_on(settings: Settings) -> Settings:
    """Return the settings that determine which items a run is measured on.

    Without a corpus, the training pairs are searched too, so the settings that limit them count as well.
    """
    tasks = settings.get("evaluation", {}).get("tasks", [HELD_OUT])
    decisive: Settings = {"evaluation.tasks": tasks}
    if HELD_OUT in tasks:
        of_training = ("limit", "drop_leaked") if "corpus" in settings["data"] else ()
        decisive["data"] = {key: value for key, value in settings["data"].items() if key not in of_training}
    return decisive


def with_values(settings: Settings, values: dict[str, Any]) -> Settings:
    """Return the settings with individual values set.

    >>> with_values({"training": {"steps": 3}}, {"training.seed": 1})
    {'training': {'steps': 3, 'seed': 1}}
    """
    for key, value in values.items():
        section, name = key.split(".")
        settings = merged(settings, {section: {name: value}})
    return settings


def merged(settings: Settings, changes: Settings) -> Settings:
    """Return the settings with the changes merged in: tables are merged, other values are replaced.

    A length in steps replaces one in epochs, and vice versa.

    >>> merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})
    {'a': {'b': 3, 'c': 2}, 'd': [2]}
    >>> merged({"training": {"epochs": 2.0, "batch_size": 8}}, {"training": {"steps": 30}})
    {'training': {'batch_size': 8, 'steps': 30}}
    """
    result = {key: value for key, value in settings.items() if EITHER.get(key) not in changes}
    for key, value in changes.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result
