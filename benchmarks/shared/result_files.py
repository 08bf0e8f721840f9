"""Name the result files: the data, the day, and the class of machine.

benchmarks/recipe/results/scifact-2026-11-27-16cores-h200.json
DATA    -DATE      -MACHINE
"""

import datetime
import os
import re
from pathlib import Path
from typing import Any


def machine_class() -> str:
    """Return the class of this machine: its number of cores and, if it has one, the model of its GPU.

    Examples: `2cores`, `16cores-h200`.
    """
    import torch  # here, because some benchmarks do not need it

    cores = f"{os.cpu_count()}cores"
    return f"{cores}-{_short(torch.cuda.get_device_name())}" if torch.cuda.is_available() else cores


def class_of(environment: dict[str, Any]) -> str:
    """Return the class of the machine in an `environment`."""
    found = re.search(r"(\d+) cores", environment["processor"])
    cores = f"{found[1]}cores" if found else "cores-unknown"
    return f"{cores}-{_short(environment['gpu'])}" if "gpu" in environment else cores


def new_result(results: Path, data: str, environment: dict[str, Any]) -> Path:
    """Return the path for a result that was measured in one go.

    Args:
        results: the folder of results of a claim.
        data: the measured data set, such as `scifact`.
        environment: the value of `environment` at the time of the measurement.
    """
    date = environment.get("date") or datetime.date.today().isoformat()
    return results / f"{data}-{date}-{class_of(environment)}.json"


def open_result(results: Path, data: str) -> Path:
    """Return the path of the result that a benchmark of many cells adds to.

    That is the newest one of the same data and class of machine, so the same command resumes after an interruption.
    Without one, the path is a new one of today.

    Args:
        results: the folder of results of a claim.
        data: the measured data set.
    """
    machine = machine_class()
    date = "[0-9]" * 4 + "-[0-9][0-9]-[0-9][0-9]"
    known = sorted(results.glob(f"{data}-{date}-{machine}.json"))
    return known[-1] if known else results / f"{data}-{datetime.date.today().isoformat()}-{machine}.json"


def _short(gpu: str) -> str:
    """Return the model of a GPU without its maker: `h200` for `NVIDIA H200`."""
    words = re.findall(r"[a-z0-9]+", gpu.lower())
    return "-".join(word for word in words if word not in ("nvidia", "amd", "geforce"))
