"""Compare the cost of anchor pooling with mean pooling and with a naive implementation.

    OMP_NUM_THREADS=1 python -m benchmarks.pooling_speed [--models minilm smollm2] [--rounds 9]
    python -m benchmarks.pooling_speed --models mistral-7b --device cuda

Three ways to pool the same model: `mean` (sentence-transformers' Transformer and Pooling), `anchor` (multigrain's), and
`naive` (eager attention, the weights of all layers kept, scores from the last). For each model, length and mode
(forward, or a training step with backward) the three run in turn in one process, round after round; the figure is the
median of the ratios to mean within a round, with quartiles. The memory peak is taken in a separate process for each
way: resident set while it runs (`peak_mb`), and its part above the loaded model (`extra_mb`).

No padding, random tokens and, beyond 512 tokens, random position embeddings for MiniLM. SmolLM2 is bidirectional.
`mistral-7b` has the shape of Mistral-7B with random weights, in bfloat16. Writes a file into the folder results after
each cell, and skips the cells in it (--again measures the named ones again); then writes its table into
docs/benchmarks.md.
"""

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.pooling_speed.measure import LENGTHS, SEED, TRAINED, WAYS, measure
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.pages import put_into
from benchmarks.shared.result_files import open_result
from multigrain.files import write_json

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=["minilm", "smollm2"], choices=TRAINED)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    require_commit(options)
    path = open_result(RESULTS, "random-tokens")
    found = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    found["environment"] = {
        **environment("torch", "transformers", "sentence-transformers", weights=SEED),
        "threads": torch.get_num_threads(),
    }
    for model in options.models:
        for length in options.lengths:
            for mode in ("forward", "training") if length in TRAINED[model] else ("forward",):
                cell = f"{model}, {mode}, {length}, {options.device}"
                if options.again or cell not in found["cells"]:
                    found["cells"][cell] = measure(model, mode, length, options.device, options.rounds)
                    write_json(path, found)
                print(cell, json.dumps(found["cells"][cell]), flush=True)
    put_into(PAGE, "python -m benchmarks.pooling_speed", table(found["cells"]))


def table(cells: dict[str, Any]) -> str:
    """Return the table of the documentation: time and peak memory relative to mean pooling."""
    lines = [
        "| model | n | naive, time | naive, peak memory | anchor, time | anchor, peak memory |",
        "| --- |" + " --- |" * 5,
    ]
    for cell, ways in cells.items():
        model, mode, length, _ = cell.split(", ")
        row = [f"{model}, {mode}", length]
        for way in WAYS[1:]:
            measured = ways.get(way)
            row += ["", ""] if measured is None else [spread(measured), f"{measured['peak_ratio']:.2f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def spread(measured: dict[str, Any]) -> str:
    low, high = measured["quartiles"]
    return f"{measured['ratio']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
