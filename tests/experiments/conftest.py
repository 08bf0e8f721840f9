from pathlib import Path

import pytest

GRID = """
name = "grid"
run = "run.toml"
seeds = [1, 2]
baseline = "mean"

[arms.anchor]

[arms.mean.model]
pooling = "mean"

[arms."only four".training]
phases = [{ name = "four", grades = [4], steps = 8 }]
"""


@pytest.fixture
def grid_toml(run_toml: Path) -> Path:
    path = run_toml.with_name("grid.toml")
    path.write_text(GRID)
    return path
