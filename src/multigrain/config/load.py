"""Read the TOML file of a run, apply overrides, and resolve its paths."""

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multigrain.config.faults import explained
from multigrain.config.run import Config
from multigrain.config.run_folders import as_path, is_run_folder, run_file_of
from multigrain.config.training import EITHER
from multigrain.errors import ConfigError

BEIR = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
"""Address of the data sets of the BEIR benchmark."""

QUICKSTART = Path(__file__).with_name("quickstart.toml")
"""File of the run that the command `quickstart` starts."""


def config_of(config: Config | str | Path) -> Config:
    """Return the configuration as given, or read from its file or run folder.

    Raises:
        TypeError, ConfigError: see `as_path` and `load_config`.
    """
    return config if isinstance(config, Config) else load_config(as_path(config, "a Config or a RUN.toml"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's TOML file.

    Args:
        path: the file, or a run folder, which contains one.
        overrides: settings as `section.key=value` that override the file; the value is TOML, or plain text.

    Raises:
        ConfigError: the settings are wrong; lists every fault.
    """
    given = as_path(path, "a RUN.toml")
    path = run_file_of(given) if given.is_dir() else given
    settings, faults = read_settings(path, overrides)
    if "arms" in settings:
        raise ConfigError(path, ["describes a grid, with [arms]; wanted the file of a run. Run: multigrain ablate"])
    config = validated(settings, path, faults)
    if not is_run_folder(given) or config.folder.absolute() == given.absolute():
        return config
    place = {"output": str(given.resolve().parent), "name": given.resolve().name}  # the folder may have been moved
    chosen = {override.partition("=")[0].strip() for override in overrides}
    return validated(settings | {key: value for key, value in place.items() if key not in chosen}, path)


def read_settings(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return the tables of a run's TOML file with absolute paths, and the faults found in the paths.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    settings = read_toml(path)
    for override in overrides:
        _override(settings, override)
    return settings, resolve_paths(settings, path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}. Give the path of a TOML file."]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, [f"not TOML: {error}. Give the file that describes the run."]) from None


def validated(settings: dict[str, Any], source: str | Path, faults: Sequence[str] = ()) -> Config:
    """Return the settings as a checked, frozen configuration.

    Raises:
        ConfigError: the settings are wrong; lists every fault, after the known `faults`.
    """
    found = list(faults)
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        found += explained(error)
    if found:
        raise ConfigError(source, found)
    return config


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", key.strip()):
        raise ConfigError("--set", [f'found "{override}"; wanted section.key=value, as in training.batch_size=16'])
    *sections, name = key.strip().split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError("--set", [f'"{key}": "{section}" is not a section'])
    settings.pop(EITHER.get(name, ""), None)
    settings[name] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def resolve_paths(settings: dict[str, Any], folder: Path) -> list[str]:
    """Make the paths in the settings absolute, in place, and return the faults."""
    faults: list[str] = []

    def resolve(key: str, value: Any) -> Any:
        if not isinstance(value, str) or value in ("python-docs", "embedded", "") or value.startswith("hf:"):
            return value
        expanded = os.path.expandvars(value)
        if unset := re.search(r"\$\{?(\w+)", expanded):
            origin = _origin(value)
            advice = "" if any(fault.endswith(origin) for fault in faults) else f"; {origin}"
            faults.append(f"{key}: the environment variable {unset[1]} is not set (in {value!r}){advice}")
        form, rest = re.fullmatch(r"((?:beir|sts|graded):)?(.*)", expanded, re.DOTALL).groups("")  # type: ignore[union-attr]
        is_path = form or key != "evaluation.tasks"
        return f"{form}{(folder / rest).absolute()}" if is_path else value

    tables = _tables(settings)
    names = [("data", "pairs"), ("data", "corpus"), ("evaluation", "tasks"), ("evaluation", "mteb_data")]
    names += [(section, name) for section in tables if section.startswith("data.") for name in ("pairs", "corpus")]
    for section, name in names:
        table = tables.get(section)
        if isinstance(table, dict) and name in table:
            value = table[name]
            key = f"{section}.{name}"
            table[name] = [resolve(key, item) for item in value] if isinstance(value, list) else resolve(key, value)
    evaluation = settings.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(instructions := evaluation.get("instructions"), dict):
        evaluation["instructions"] = {resolve("evaluation.tasks", name): own for name, own in instructions.items()}
    training = settings.get("training")
    tables = {**settings, "training.teacher": training.get("teacher") if isinstance(training, dict) else None}
    for section, name in (
        ("model", "base"),
        ("grading", "judge_model"),
        ("grading", "cross_encoder"),
        ("synthesis", "prompts"),
        ("training.teacher", "model"),
    ):
        table = tables.get(section)
        if isinstance(table, dict) and isinstance(value := table.get(name), str) and (folder / value).exists():
            table[name] = str((folder / value).absolute())
    return faults


def _tables(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the tables by name, with those of `[[data.sources]]` as `data.sources.0` and so on."""
    data = settings.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    numbered = enumerate(sources) if isinstance(sources, list) else ()
    return settings | {f"data.sources.{number}": source for number, source in numbered}


def _origin(value: str) -> str:
    """Advise where to find the data of an unresolved path."""
    advice = "set it to the folder where the rest of the path starts, or write out the path"
    if not (beir := re.fullmatch(r"beir:\$\{?\w+\}?/(\w[\w-]*)(:\w+)?", value)):
        return advice
    return f"{advice}. If you do not have the data set, unpack {BEIR}/{beir[1]}.zip there"
