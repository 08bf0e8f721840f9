"""Compare a training step with the stock sentence-transformers trainer: its speed, and whether it is the same step.

    OMP_NUM_THREADS=1 python -m benchmarks.training_speed [--again CELL ...] [--table] [--settings]

MedQuAD (long answers), all-MiniLM-L6-v2 with mean pooling, 256 tokens, batches of 64 rows of 1 + 1 + 4 texts: a query,
its positive, and a negative of each grade, mined by BM25. `stock` is SentenceTransformerTrainer with
CachedMultipleNegativesRankingLoss, at its best mini-batch size (measured first, on a quarter of a batch), and without
dropout, as `multigrain` trains by default; `stock as shipped` keeps the base's dropout. `multigrain` is `train_model`.
All get the same rows in the same order, the same learning rate, warm-up and clipping.

Each arm is a separate process with its own memory peak, and all arms take turns, step by step: the ratio of a step
compares the seconds of processor time within a round. A step is everything from the start of one to the start of the
next: encoding, loss, optimizer, log, and tokenizing the next batch. The first is not counted.

`multigrain` leaves out false in-batch negatives, and stock does not. `multigrain, none left out` shows that its loss is
otherwise the same.

Cells: mini-batch (the best size for stock), rows (distinct texts and tokens), pair (one thread), threads (two threads,
wall time). Writes a file into the folder results after each, and skips the cells in it. --settings measures the best
micro-batches and the best amount of kept activations for multigrain.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import open_result
from benchmarks.training_speed.data import DATA, SEED, Arm
from benchmarks.training_speed.mini_batch import mini_batch_cell
from benchmarks.training_speed.rows import rows_cell
from benchmarks.training_speed.turns import paired, settings_cell
from multigrain.files import write_json

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--again", nargs="+", default=[], help="cells to measure again")
    parser.add_argument("--cells", nargs="+", default=["rows", "mini-batch", "pair", "threads"])
    parser.add_argument("--table", action="store_true", help="print the existing results")
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    path = open_result(RESULTS, "medquad")
    found = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    cells = found["cells"]
    if options.table:
        print(table(cells))
        return
    require_commit(options)
    if not DATA.exists():
        sys.exit(f"training_speed: no MedQuAD in {DATA}; give its parent folder as MULTIGRAIN_DATA")
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "rows": rows_cell,
        "mini-batch": mini_batch_cell,
        "pair": lambda: paired(arms(cells), options.rounds, threads=1),
        "threads": lambda: paired(arms(cells, for_threads=True), 2, threads=2),
        "settings": settings_cell,
    }
    for name in [*options.cells, *(["settings"] if options.settings else [])]:
        if name in options.again or name not in cells:
            begun = time.monotonic()
            cells[name] = {**work[name](), "minutes": round((time.monotonic() - begun) / 60, 1)}
            found["environment"] = environment("torch", "transformers", "sentence-transformers", all=SEED)
            write_json(path, found)
    print(table(cells))


def arms(cells: dict[str, Any], *, for_threads: bool = False) -> dict[str, Arm]:
    """Return the arms by name, stock's at their best mini-batch size."""
    best = cells["mini-batch"]["best"]
    stock = Arm(is_stock=True, mini_batch_size=best["stock"])
    some = {"stock": stock, "multigrain": Arm(), "multigrain bf16": Arm(precision="bf16")}
    if for_threads:
        return some
    return {
        **some,
        "stock as shipped": replace(stock, dropout=True, mini_batch_size=best["stock as shipped"]),
        "stock bf16": replace(stock, precision="bf16"),
        "multigrain, none left out": Arm(leaves_out=False),
    }


def table(cells: dict[str, Any]) -> str:
    lines = []
    if "pair" in cells:
        two = cells.get("threads", {"arms": {}})["arms"]
        lines += [
            "| arm | CPU-s per step | examples / CPU-s | speed | speed, 2 threads | peak MB | loss apart by |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, arm in cells["pair"]["arms"].items():
            seconds = f"{statistics.median(arm['seconds']):.1f}"
            row = [name, seconds, f"{arm['examples_per_second']:.2f}", f"{arm['speedup']:.2f}"]
            row += [f"{two[name]['speedup']:.2f}" if name in two else ""]
            row += [f"{arm['peak_mb']:.0f}", f"{arm['largest_difference_of_loss']:.1g}"]
            lines.append(f"| {' | '.join(row)} |")
    if "settings" in cells:
        lines += ["", "| setting | CPU-s | peak MB |", "| --- | --- | --- |"]
        lines += [
            f"| {name} | {arm['seconds'][0]:.1f} | {arm['peak_mb']:.0f} |"
            for name, arm in cells["settings"].items()
            if isinstance(arm, dict)
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
