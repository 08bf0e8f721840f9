"""Run one training in a separate process, and compare it with the forecast of `check`.

Seconds are processor time, so other work on the machine does not count. With one thread they equal the wall time of an
otherwise idle machine.
"""

import gzip
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.shared.data_sets import DATA_SETS
from multigrain.config import Config

PAIRS, SEED = 2000, 7


def measured(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    from multigrain.pipeline.check_inputs import read_inputs
    from multigrain.pipeline.check_memory import training_memory
    from multigrain.pipeline.check_time import measured_training
    from multigrain.training import step_time

    step_time._now = lambda loss: time.process_time()  # noqa: ARG005 (other work may share the machine)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(settings, Path(folder), steps)
        inputs = read_inputs(config)
        assert inputs.size is not None
        memory = training_memory(config, inputs.size)
        assert memory is not None
        first = train_for(config, 1, inputs.pairs)
        peak = peak_bytes()  # before the second training adds to it
        each = (train_for(config, steps, inputs.pairs) - first) / (steps - 1)
        said = measured_training(config, inputs.size, inputs.pairs)
    return {
        "memory": compared(memory.total / 1e9, peak / 1e9),
        "seconds of a step": compared(said.seconds / steps, each),
        "measured": said.line,
    }


def compared(said: float, found: float) -> dict[str, float]:
    return {"said": round(said, 3), "found": round(found, 3), "share": round(said / found, 3)}


def config_of(settings: dict[str, Any], folder: Path, steps: int) -> Config:
    """Write some pairs, and return the run that trains on them."""
    with gzip.open(DATA_SETS / "medquad" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(PAIRS)]
    pairs = folder / "pairs.jsonl"
    with pairs.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            fields = {"id": str(number), "query": row["query"], "positive": row["positive"]}
            file.write(json.dumps(fields) + "\n")
    training = {"schedule": "in-batch", "steps": steps, **settings["training"]}
    data = {"pairs": str(pairs), "held_out": 0.1}
    return Config.model_validate(
        {"name": "x", "output": str(folder), "data": data, "model": settings["model"], "training": training}
    )


def train_for(config: Config, steps: int, pairs: Any) -> float:
    """Train from the start for so many steps, and return the seconds."""
    from multigrain.model.build import build_model
    from multigrain.records import GradedTuple
    from multigrain.training.curriculum import plan
    from multigrain.training.grade_schedules import phases_of
    from multigrain.training.train import train_model

    section = config.training.model_copy(update={"steps": steps})
    tuples = [GradedTuple(pair.id, pair.query, pair.positive, ()) for pair in pairs]
    curriculum = plan(tuples, phases_of(section), section.batch_size, SEED)
    model = build_model(config.model)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        train_model(model, curriculum, section, Path(folder), SEED)
        return time.process_time() - begun


def peak_bytes() -> int:
    """Return the peak of resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
