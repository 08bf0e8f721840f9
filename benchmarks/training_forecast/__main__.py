"""Compare the memory that `check` predicts, and the seconds of `check --time`, with a real training.

    OMP_NUM_THREADS=1 python -m benchmarks.training_forecast [--steps 2]

all-MiniLM-L6-v2, pairs of MedQuAD cut at 64 tokens, in-batch training. Each arm is a separate process, so the peak of
resident memory is its own. It records the forecast of `check`, then trains twice, for `--steps` steps and for one; the
difference is the time of a step, without the start. Writes a file into the folder results: forecast, measurement and
their ratio for each arm.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from benchmarks.training_forecast.arms import SEED, measured
from multigrain.files import write_json

RESULTS = Path(__file__).with_name("results")
MINILM = {"base": "embedded", "pooling": "mean", "max_tokens": 64}
ARMS: dict[str, dict[str, Any]] = {
    "batches of 64": {"batch_size": 64},
    "batches of 64, activation_gb = 0.2": {"batch_size": 64, "activation_gb": 0.2},
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    require_commit(options)
    result: dict[str, Any] = {"environment": environment("torch", "sentence-transformers", all=SEED), "arms": {}}
    path = new_result(RESULTS, "medquad", result["environment"])
    for name, training in ARMS.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result["arms"][name] = pool.submit(
                measured, {"model": MINILM, "training": training}, options.steps
            ).result()
        write_json(path, result)
        print(name, json.dumps(result["arms"][name]), flush=True)


if __name__ == "__main__":
    main()
