"""Some stages of a run, in a process of their own, with what they take.

    python -m benchmarks.data_path.stages RUN.toml data synthesize grade [--parts FILE]

Named stages are done again, those before them must be done. The CPU seconds of each part go to the file.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from multigrain.files import write_json

MINING_AND_GRADING = ("synthesize", "grade")
ALL = ("data", *MINING_AND_GRADING)


@dataclass(frozen=True)
class Cost:
    """What a process and the children that it has waited for take."""

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float
    """The highest resident memory of one of them, mapped files included."""


class StagesError(Exception):
    """A process has ended with an exit code above 0."""


def run(settings: Path, names: Sequence[str], *more: str) -> Cost:
    """Run stages to their end.

    Args:
        settings: the run's TOML file.
        names: the stages.
        more: further arguments of this module.

    Raises:
        StagesError: they have failed; what they said is on the terminal.
    """
    begun = time.monotonic()
    process = started(settings, names, *more)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise StagesError(f"{settings}: {', '.join(names)} ended with exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(round(time.monotonic() - begun, 2), round(cpu, 2), round(usage.ru_maxrss * unit / 1e6, 1))


def started(settings: Path, names: Sequence[str], *more: str) -> "subprocess.Popen[bytes]":
    """Start stages, one thread each for the products, silent but for errors."""
    command = [sys.executable, "-m", __spec__.name, str(settings), *names, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def sizes(folder: Path) -> dict[str, float]:
    """Return MB by file of a run's synthesis/ and grading/."""
    files = sorted(path for name in ("synthesis", "grading") for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): round(path.stat().st_size / 1e6, 3) for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--parts", type=Path)
    options = parser.parse_args()
    if options.parts is None:
        _work(options.settings, options.names)
        return
    from benchmarks.data_path.parts import sampled

    with sampled() as seconds:
        _work(options.settings, options.names)
    write_json(options.parts, seconds)


def _work(settings: Path, names: list[str]) -> None:
    from multigrain.config import config_of
    from multigrain.pipeline.run import run_stages

    run_stages(config_of(settings), names, force=True, redo=tuple(names))


if __name__ == "__main__":
    main()
