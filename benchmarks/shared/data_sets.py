"""Locate the public data sets of the benchmarks."""

import os
from pathlib import Path

DATA_SETS = Path(os.environ.get("MULTIGRAIN_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Folder with one folder per data set; the variable MULTIGRAIN_DATA names it."""
