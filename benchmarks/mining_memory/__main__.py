"""Measure memory and time of the data stage and mining for a million passages.

    python -m benchmarks.mining_memory [--documents 1000000] [--queries 1000]

Writes a corpus of random passages of about 1 KB, sends it through the data stage and through mining by both methods,
each in a separate process, and measures seconds and peak resident memory. The sum of random vectors of a passage's
first words replaces the encoder, so the figures are multigrain's own: a real encoder adds its time and memory. The
vectors are kept in a file like those of a real encoder. Writes a file into the folder results.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.mining_memory.stages import SEED, data, mining, timed, write_run
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.files import write_json
from multigrain.pipeline.run_dir import RunDir

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    arguments = parser.parse_args()
    require_commit(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.documents, arguments.queries, Path(folder))
    measured_with = environment(run=SEED)
    path = new_result(RESULTS, "random-words", measured_with)
    write_json(path, {"environment": measured_with, **result})
    print(path.read_text())


def measure(documents: int, queries: int, folder: Path, dimension: int = 384) -> dict[str, Any]:
    """Return seconds and peak memory of the data stage and of mining."""
    config = write_run(folder, documents, queries)
    result: dict[str, Any] = {"documents": documents, "queries": queries, "dimension": dimension}
    result["corpus_mb"] = round((folder / "corpus.jsonl").stat().st_size / 1e6)
    for name, work in (("data", data), ("mining", mining)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # each has its own peak
            result[name] = pool.submit(timed, work, config, dimension).result()
    result["vectors_mb"] = round(RunDir(config.folder).judge_vectors.stat().st_size / 1e6)
    return result


if __name__ == "__main__":
    main()
