"""Compare the cost of mining and grading, after encoding, with `mine_hard_negatives`.

    python -m benchmarks.data_path.compare DATA ... --cache FOLDER [--rounds 5]

DATA is `medquad` (13,254 pairs, 15,809 answers), `scifact` (919 claims, 5,183 abstracts) or `docstrings` (1,000 of the
installed packages). The texts are first encoded into a run folder below the cache, where a second call finds the
vectors. Then the following run in turn, round after round, each in a separate process on one thread:

    ours        the stages `synthesize` and `grade`: CPU seconds of the process, by part (a sampling profile)
    stock       `sentence_transformers.util.mine_hard_negatives` on the same texts with the same vectors: CPU seconds of
                the call alone, which neither reads nor writes; four negatives per pair, drawn within a relative margin
    take apart  `bm25s.tokenize` over the documents, the least that BM25 can cost

`ratio` is ours without process start and BM25, divided by the call alone, in one round. Writes a file into the folder
results for each data set.
"""

import json
import os
import random
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from benchmarks.data_path.parts import START
from benchmarks.data_path.stages import MINING_AND_GRADING, VECTORS, run, sizes
from benchmarks.data_path.stock import mine, take_apart
from benchmarks.shared.data_sets import DATA_SETS
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.config import config_of
from multigrain.data import python_docs
from multigrain.files import write_atomic, write_json, write_objects
from multigrain.pipeline.run_dir import RunDir

Result = TypeVar("Result")
RESULTS = Path(__file__).with_name("results")
DATA = ("medquad", "scifact", "docstrings")
DOCSTRINGS = 1000
SEED = 7
MAX_TOKENS = 128
STOCK = ("reading", "mine_hard_negatives", "writing")
APART = (START, "BM25")
"""Parts that are counted separately."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="+", choices=DATA)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--label", default="", help="suffix for the name of the result, such as -before")
    options = parser.parse_args()
    require_commit(options)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in options.data:
        settings = write_settings(name, options.cache.absolute())
        run(settings, ["data", VECTORS])
        result = measure(settings, options.rounds)
        packages = ("sentence-transformers", "torch", "numpy", "bm25s", "datasets")
        measured_with = environment(*packages, run=SEED)
        path = new_result(RESULTS, name + options.label, measured_with)
        write_json(path, {"environment": measured_with, "threads": 1, "judge_max_tokens": MAX_TOKENS, **result})
        print(path.read_text(), flush=True)


def write_settings(name: str, cache: Path) -> Path:
    """Write the settings of a data set's run below the cache, without a language model; return the TOML file."""
    settings = cache / f"{name}.toml"
    sections = {
        "data": {**_sources(name, cache), "held_out": 0},
        "synthesis": {"limit": 0},
        "grading": {"judge_max_tokens": MAX_TOKENS},
        "evaluation": {"tasks": [f"beir:{DATA_SETS}/xquad_en:test"]},  # not used: the run ends before the evaluation
    }
    content = {"name": name, "output": str(cache), "seed": SEED, **sections}
    write_atomic(settings, tomli_w.dumps(content).encode())
    return settings


def _sources(name: str, cache: Path) -> dict[str, Any]:
    if name == "medquad":
        return {"pairs": f"{DATA_SETS}/medquad/train.jsonl.gz", "corpus": f"beir:{DATA_SETS}/medquad"}
    if name == "scifact":
        return {"pairs": f"{DATA_SETS}/scifact/train.jsonl", "corpus": f"beir:{DATA_SETS}/scifact"}
    pairs = cache / "docstrings.jsonl"
    if not pairs.is_file():
        drawn = random.Random(SEED).sample(python_docs.read_pairs(), DOCSTRINGS)
        write_objects(pairs, ({"id": pair.id, "query": pair.query, "positive": pair.positive} for pair in drawn))
    return {"pairs": str(pairs)}


def measure(settings: Path, rounds: int) -> dict[str, Any]:
    """Measure in turn; return minimum and median of each figure."""
    run_dir = RunDir(config_of(settings).folder)
    ours, stock, apart = [], [], []
    for _ in range(rounds):
        ours.append(parts_of(settings))
        stock.append(_alone(mine, settings))
        apart.append(_alone(take_apart, settings))
    counted = [_without(parts) for parts in ours]
    calls = [row["mine_hard_negatives"] for row in stock]
    return {
        "rounds": rounds,
        "counts": {name: record.counts for name, record in run_dir.stages().items()},
        "stock_pairs": {"all": stock[0]["pairs"], "with all negatives": stock[0]["with all"]},
        "cpu_seconds": {
            "ours": {part: _spread([row.get(part, 0.0) for row in ours]) for part in ours[0]},
            "ours, in all": _spread([sum(row.values()) for row in ours]),
            "ours, without start and BM25": _spread(counted),
            "stock": {part: _spread([row[part] for row in stock]) for part in STOCK},
            "take apart": _spread(apart),
        },
        "ratio": _spread([own / call for own, call in zip(counted, calls, strict=True)]),
        "megabytes": sizes(run_dir.folder),
    }


def parts_of(settings: Path) -> dict[str, float]:
    """Mine and grade once more; return CPU seconds by part."""
    file = settings.with_suffix(".parts.json")
    run(settings, MINING_AND_GRADING, "--again", "--parts", str(file))
    parts: dict[str, float] = json.loads(file.read_text())
    return parts


def _alone(work: Callable[[Path], Result], settings: Path) -> Result:
    """Do the work in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, settings).result()


def _without(parts: dict[str, float]) -> float:
    return sum(cpu for part, cpu in parts.items() if part not in APART)


def _spread(values: list[float]) -> dict[str, float]:
    return {"least": round(min(values), 3), "median": round(statistics.median(values), 3)}


if __name__ == "__main__":
    main()
