"""How fast is a step of training beside sentence-transformers' own trainer, and is it the same step?

    OMP_NUM_THREADS=1 python -m benchmarks.training_speed [--again CELL ...] [--table] [--settings]

MedQuAD (long answers), all-MiniLM-L6-v2 with mean pooling, 256 tokens, batches of 64 rows of 1 + 1 + 4 texts: a query,
its positive, and a negative of each grade, mined by BM25. `stock` is SentenceTransformerTrainer with
CachedMultipleNegativesRankingLoss, at the mini-batch size that is best for it (measured first, on a quarter of a
batch), and without dropout, as `multigrain` trains by default; `stock as shipped` keeps the base's dropout.
`multigrain` is `train_model`. All get the same rows in the same order, the same learning rate, warm-up and clipping.

Each arm is a process of its own, so that the peak of its memory is its own, and all arms take turns, step by step: the
ratio of a step is of the seconds of processor time within a round. A step is all that happens from the begin of one to
the begin of the next: encoding, loss, optimizer, log, and tokenizing the next batch. The first is not counted.

`multigrain` leaves out false in-batch negatives, which stock does not; `multigrain, none left out` is there to show
that its loss is otherwise the same.

Cells: mini-batch (which size is best for stock), rows (how many texts and tokens are distinct), pair (one thread),
threads (two threads, wall time). Writes a file in the folder results after each, and skips those that it
finds there. --settings measures which micro-batches and how much kept activation are best for multigrain.
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
    parser.add_argument("--again", nargs="+", default=[], help="cells to measure anew")
    parser.add_argument("--cells", nargs="+", default=["rows", "mini-batch", "pair", "threads"])
    parser.add_argument("--table", action="store_true", help="print what is there")
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
    """The arms by name, stock's at their best mini-batch size."""
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
