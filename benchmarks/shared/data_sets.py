"""Where the public data sets lie that the benchmarks measure on."""

import os
from pathlib import Path

DATA_SETS = Path(os.environ.get("MULTIGRAIN_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""The folder with one data set a folder; the variable MULTIGRAIN_DATA names it."""
