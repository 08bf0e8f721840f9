"""Run stages in a separate process and measure their cost.

    python -m benchmarks.data_path.stages RUN.toml data vectors synthesize grade [--again] [--parts FILE]

Finished stages are skipped, or repeated with --again. `vectors` is not a stage of the pipeline: it encodes the texts
that mining will need, so that later stages have all vectors. The CPU seconds of each part go into the file.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.data_path.parts import sampled
from benchmarks.shared.process_tree import ProcessTree
from multigrain.files import write_json

if TYPE_CHECKING:
    from multigrain.config import Config

VECTORS = "vectors"
MINING_AND_GRADING = ("synthesize", "grade")
FOLDERS = {"data": "data", "synthesize": "synthesis", "grade": "grading"}
LIMIT = 24 * 3600.0
"""Seconds after which a process counts as hung."""
AT_ONCE = 1024
"""Documents that are encoded at once, as in mining."""


@dataclass(frozen=True)
class Cost:
    """Cost of a process and of the children that it has waited for."""

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float
    """Peak resident memory of the process, including mapped files."""


class StagesError(Exception):
    """A process ended with an exit code above 0."""


def run(settings: Path, names: Sequence[str], *more: str) -> Cost:
    """Run stages to their end.

    Args:
        settings: the run's TOML file.
        names: the stages.
        more: further arguments of this module.

    Raises:
        StagesError: they failed.
    """
    tree = started(settings, names, *more)
    tree.wait(LIMIT)
    if tree.exit_code:
        fault = f"{', '.join(names)} ended with exit code {tree.exit_code}"
        raise StagesError(f"{settings}: {fault}; see {settings.with_suffix('.log')}")
    assert tree.ended is not None
    return Cost(round(tree.ended - tree.started, 2), round(tree.cpu, 2), round(tree.peak_rss / 1e6, 1))


def started(settings: Path, names: Sequence[str], *more: str) -> ProcessTree:
    """Start stages, on one thread unless `OMP_NUM_THREADS` says otherwise; their output goes into a log."""
    command = [sys.executable, "-m", __spec__.name, str(settings), *names, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return ProcessTree(command, environment, Path.cwd(), settings.with_suffix(".log"))


def sizes(folder: Path) -> dict[str, float]:
    """Return MB by file of a run's synthesis/ and grading/."""
    files = sorted(path for name in ("synthesis", "grading") for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): round(path.stat().st_size / 1e6, 3) for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--parts", type=Path)
    options = parser.parse_args()
    if options.parts is None:
        _work(options)
        return
    with sampled() as seconds:
        _work(options)
    write_json(options.parts, {part: round(cpu, 3) for part, cpu in seconds.items()})


def _work(options: argparse.Namespace) -> None:
    from multigrain.config import config_of  # here, because the imports are measured too
    from multigrain.pipeline.run import run_stages

    config = config_of(options.settings)
    for name in options.names:
        if name == VECTORS:
            _encode(config)
        else:
            if options.again:
                _forget(config.folder, name)
            run_stages(config, [name], force=options.again, redo=(name,) if options.again else ())


def _forget(run: Path, name: str) -> None:
    """Delete the output of a stage, so that it starts from nothing but the vectors."""
    for path in (run / FOLDERS[name]).rglob("*"):
        if path.is_file() and path.name != "vectors.bin":
            path.unlink()


def _encode(config: "Config") -> None:
    """Encode missing queries, positives and documents of the corpus."""
    from multigrain.data.jsonl import read_documents, read_pairs
    from multigrain.pipeline.encoders import judge_encoder
    from multigrain.pipeline.run_dir import RunDir

    run_dir = RunDir(config.folder)
    embed = judge_encoder(config, run_dir)
    pairs = list(read_pairs(run_dir.train_pairs))
    embed([pair.query for pair in pairs], "query")
    embed([pair.positive for pair in pairs], "document")
    texts = (document.text for document in read_documents(run_dir.corpus) if document.split != "held_out")
    while block := list(islice(texts, AT_ONCE)):
        embed(block, "document")


if __name__ == "__main__":
    main()
