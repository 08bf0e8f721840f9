"""What do mining and grading take for a million passages, and for ten?

    python -m benchmarks.data_path.scale --passages 1000000 --pairs 100000 --folder FOLDER [--dimension 384]

Writes passages of pseudo-words, pairs, and an encoder that knows these words; encodes all texts; and then runs the
stages `data`, `synthesize` and `grade`, each in a process of its own on one thread. Measures seconds, CPU seconds and
the peak of resident memory of each, and the sizes of its files. What an interrupted call has written and encoded into
the folder stays. Writes a file in the folder results; give `--dimension 32` to see with less disk whether memory grows.
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
    parser.add_argument("--label", default="", help="goes into the name of the result, such as -before")
    options = parser.parse_args()
    require_commit(options)
    settings = write_run(options.folder.absolute(), options.passages, options.pairs, options.dimension)
    result = {"passages": options.passages, "pairs": options.pairs, "dimension": options.dimension, **measure(settings)}
    measured_with = environment("bm25s", "numpy", words=SEED)
    path = new_result(RESULTS, f"words-{settings.stem}{options.label}", measured_with)
    write_json(path, {"environment": measured_with, **result})
    print(path.read_text())


def measure(settings: Path) -> dict[str, Any]:
    """Run the stages one after the other; return what each takes and has counted."""
    costs = {name: asdict(run(settings, [name], "--again")) for name in ("data", VECTORS, *MINING_AND_GRADING)}
    run_dir = RunDir(config_of(settings).folder)
    return {
        "stages": costs,
        "counts": {name: record.counts for name, record in run_dir.stages().items()},
        "megabytes": sizes(run_dir.folder),
    }


if __name__ == "__main__":
    main()
