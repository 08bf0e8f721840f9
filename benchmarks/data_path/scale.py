"""Measure mining and grading for a million passages or more.

    python -m benchmarks.data_path.scale --passages 1000000 --pairs 100000 --folder FOLDER [--dimension 384]

Writes passages of pseudo-words, pairs, and an encoder that knows these words. Encodes all texts, then runs the stages
`data`, `synthesize` and `grade`, each in a separate process on one thread. Measures seconds, CPU seconds and peak
resident memory of each, and the sizes of its files. Files and vectors of an interrupted call stay in the folder. Writes
a file into the folder results. `--dimension 32` shows with less disk whether memory grows.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.data_path.stages import MINING_AND_GRADING, VECTORS, run, sizes
from benchmarks.data_path.words import SEED, write_run
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.config import config_of
from multigrain.files import write_json
from multigrain.pipeline.run_dir import RunDir

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--passages", type=int, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--label", default="", help="suffix for the name of the result, such as -before")
    options = parser.parse_args()
    require_commit(options)
    settings = write_run(options.folder.absolute(), options.passages, options.pairs, options.dimension)
    result = {"passages": options.passages, "pairs": options.pairs, "dimension": options.dimension, **measure(settings)}
    measured_with = environment("bm25s", "numpy", words=SEED)
    path = new_result(RESULTS, f"words-{settings.stem}{options.label}", measured_with)
    write_json(path, {"environment": measured_with, **result})
    print(path.read_text())


def measure(settings: Path) -> dict[str, Any]:
    """Run the stages in order; return their cost and their counts."""
    costs = {name: asdict(run(settings, [name], "--again")) for name in ("data", VECTORS, *MINING_AND_GRADING)}
    run_dir = RunDir(config_of(settings).folder)
    return {
        "stages": costs,
        "counts": {name: record.counts for name, record in run_dir.stages().items()},
        "megabytes": sizes(run_dir.folder),
    }


if __name__ == "__main__":
    main()
