"""Measure whether the memory of data stage, check, evaluation and search is flat.

    python -m benchmarks.data_path.memory [--pairs 20000] [--documents 200000] [--times 1 10] [--name random-words]

Writes pairs and a corpus of random passages of about 1 KB, at 1 and 10 times the given numbers, and sends them through
the stage `data`, `check`, the stage `evaluate` and a search, each in a separate process. 32 numbers from a digest of
the text replace the encoder, so the figures are multigrain's own. Writes a file into the folder results.
"""

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.mining_memory.stages import SEED, data, write_run
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.config import Config
from multigrain.files import write_json
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline import check_inputs
from multigrain.pipeline import search as search_module
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import evaluate as evaluate_stage

RESULTS = Path(__file__).with_name("results")
DIMENSION = 32


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--name", default="random-words", help="prefix of the result file")
    arguments = parser.parse_args()
    require_commit(arguments)
    measured: dict[str, Any] = {}
    for times in arguments.times:
        with tempfile.TemporaryDirectory() as folder:
            measured[f"x{times}"] = measure(times * arguments.documents, times * arguments.pairs, Path(folder))
    measured_with = environment(run=SEED)
    path = new_result(RESULTS, arguments.name, measured_with)
    write_json(path, {"environment": measured_with, **measured})
    print(path.read_text())


def measure(documents: int, pairs: int, folder: Path) -> dict[str, Any]:
    """Return seconds and peak memory of each step."""
    config = _alone(write_run, folder, documents, pairs)
    result: dict[str, Any] = {"documents": documents, "pairs": pairs, "dimension": DIMENSION}
    result["corpus_mb"] = round((folder / "corpus.jsonl").stat().st_size / 1e6)
    for work in (data, check, evaluate, search):
        result[work.__name__] = _alone(timed, work, config)
    return result


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a separate process, which has its own peak."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def timed(work: Callable[[Config, int], dict[str, int]], config: Config) -> dict[str, Any]:
    """Return CPU seconds and peak memory of a function. A search imports torch, which is not counted."""
    if work is search:
        import multigrain.model.load  # noqa: F401
    begun, before = time.process_time(), _peak_mb()
    counts = work(config, DIMENSION)
    return {"cpu_seconds": round(time.process_time() - begun, 1), "peak_mb": _peak_mb(), "before_mb": before, **counts}


def _peak_mb() -> float:
    """Return the peak of resident memory of this program alone; `getrusage` includes the parent's, before exec."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return round(int(found[1]) * 1024 / 1e6, 1)


def check(config: Config, _dimension: int) -> dict[str, int]:
    inputs = check_inputs.read_inputs(config)
    assert inputs.size is not None
    return {"train_pairs": inputs.size.pairs, "documents": inputs.size.documents}


def evaluate(config: Config, _dimension: int) -> dict[str, int]:
    with (
        patch.object(evaluate_stage, "base_encoder", lambda *_: Hashed("base")),
        patch.object(evaluate_stage, "trained_encoder", lambda *_: Hashed("trained")),
    ):
        return evaluate_stage.evaluate(config, RunDir(config.folder)).counts


def search(config: Config, _dimension: int) -> dict[str, int]:
    query = HashedModel()
    with (
        patch("multigrain.model.load.load_model", lambda _: query),
        patch.object(search_module, "trained_encoder", lambda *_: Hashed("trained")),
    ):
        return {"found": len(search_module.search(RunDir(config.folder), "word1 word2", 10))}


class Hashed:
    """An encoder whose vectors are digests of the texts."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def __call__(self, texts: Sequence[str], _role: Role) -> Vectors:
        """Return (texts, 32) vectors of length 1."""
        digests = [hashlib.blake2b(text.encode(), digest_size=DIMENSION, key=self._name).digest() for text in texts]
        numbers = np.frombuffer(b"".join(digests), dtype=np.int8).reshape(-1, DIMENSION).astype(np.float32)
        unit: Vectors = numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
        return unit


class HashedModel:
    """The part of a model that a search uses."""

    def __init__(self) -> None:
        self.prompts: dict[str, str] = {}

    def encode(self, texts: Sequence[str], **_: object) -> Vectors:  # noqa: D102
        return Hashed("trained")(texts, "query")


if __name__ == "__main__":
    main()
