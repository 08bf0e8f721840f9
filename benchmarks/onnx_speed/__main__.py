"""Compare the exported ONNX graph with torch: speed and vectors.

    OMP_NUM_THREADS=1 python -m benchmarks.onnx_speed [--models minilm smollm2] [--again]

Four ways to embed with the same model under anchor pooling, one thread each: `torch` (sentence-transformers' modules in
eval mode, without gradient), `onnx` and `int8` (the two graphs of `export_onnx`), and for comparison `dynamic`:
onnxruntime's dynamic quantisation of all products, per channel, which `int8` does not use. For each batch size and
length they run in turn in one process, round after round; `speedup` is the median of torch's processor time over theirs
within a round, with quartiles. Random tokens, no padding, tokenizing left out. SmolLM2 is bidirectional and untrained.

Parity: vectors of STS-B sentences against torch's, each alone and in batches of 32 in their order. The largest
difference of a number, and the lowest, 5 % and median cosine.

Writes a file into the folder results after each model, and skips the models in it.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.onnx_speed.measure import MODELS, SEED, measure
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import open_result
from multigrain.files import write_json

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    require_commit(options)
    path = open_result(RESULTS, "stsb")
    found = json.loads(path.read_text()) if path.exists() and not options.again else {"models": {}}
    found["environment"] = {
        **environment("torch", "transformers", "onnx", "onnxruntime", "onnxscript", weights=SEED),
        "threads": 1,
    }
    for name in options.models:
        if name not in found["models"]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found["models"][name] = pool.submit(measure, name).result()
            write_json(path, found)


if __name__ == "__main__":
    main()
