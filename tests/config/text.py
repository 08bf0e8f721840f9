"""Load a configuration, or its faults, from text."""

from pathlib import Path

import pytest

from multigrain.config import Config, load_config
from multigrain.errors import ConfigError

GOOD = 'name = "x"\n[data]\npairs = "python-docs"\n'
"""The least that describes a run."""


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, overrides)


def faults(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return caught.value.faults
