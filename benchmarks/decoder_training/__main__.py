"""Train a language model into an embedding model on two CPU cores; the target is a quarter of an hour.

    python -m benchmarks.decoder_training

SmolLM2-135M, bidirectional, anchor pooling, LoRA in its top 6 layers; 1,000 tuples of snli_small, all of them in each
of four phases. Grades: 4 a neutral hypothesis of the same premise, 3 a contradiction, 2 a hypothesis of the nearest
premise by BM25, 1 a hypothesis of any premise. Needs snli_small (and stsb) in MULTIGRAIN_DATA. Writes a file into the
folder results: seconds of each part, losses and margins by phase, and Spearman's correlation on the first 400 pairs of
STS-B dev before and after.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from benchmarks.shared.data_sets import DATA_SETS
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.config import LoraSection, ModelSection, TrainingSection
from multigrain.files import write_json
from multigrain.grading.bm25_judge import Bm25Judge
from multigrain.model.build import build_model
from multigrain.model.encode import encode
from multigrain.records import GradedTuple, Negative
from multigrain.training.curriculum import plan
from multigrain.training.grade_schedules import phases_of
from multigrain.training.train import train_model

RESULTS = Path(__file__).with_name("results")
TUPLES, BATCH, SEED = 1000, 32, 7
CANDIDATES = 60
"""Premises among which the nearest is searched."""


def main() -> None:
    require_commit(parser_of(__doc__).parse_args())
    if not (DATA_SETS / "snli_small").is_dir():
        sys.exit(
            f"decoder_training: snli_small is not in {DATA_SETS.absolute()} (MULTIGRAIN_DATA); nothing is measured"
        )
    section = TrainingSection(
        schedule="coarse-to-fine", steps=4 * (TUPLES // BATCH), batch_size=BATCH, learning_rate=2e-4
    )
    result: dict[str, Any] = {
        "environment": environment("torch", "transformers", "sentence-transformers", "peft", all=SEED)
    }
    path = new_result(RESULTS, "snli", result["environment"])
    for precision in ("fp32", "bf16"):
        result[precision] = measure(section.model_copy(update={"precision": precision}))
        write_json(path, result)
        print(precision, json.dumps(result[precision], indent=1))


def measure(section: TrainingSection) -> dict[str, Any]:
    started = time.monotonic()
    torch.manual_seed(SEED)
    lora = LoraSection(rank=16, top_layers=6)
    model = build_model(
        ModelSection(base="embedded-llm", bidirectional=True, pooling="anchor", max_tokens=64, lora=lora)
    )
    curriculum = plan(tuples(), phases_of(section), BATCH, SEED)
    built = time.monotonic()
    before = similarity(model)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        train_model(model, curriculum, section, Path(folder), SEED)
        ended = time.monotonic()
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return {
        "seconds": {"building": round(built - started, 1), "training": round(ended - begun, 1)},
        "steps": curriculum.steps,
        "phases": list(by_phase(lines)),
        "stsb_dev_400": {"before": before, "after": similarity(model)},
    }


def by_phase(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for phase in dict.fromkeys(line["phase"] for line in lines):
        rows = [line for line in lines if line["phase"] == phase]
        margins = [fmean(row["margins"].values()) for row in rows]
        quarter = max(1, len(rows) // 4)
        yield {
            "phase": phase,
            "loss": [round(fmean(row["loss"] for row in part), 3) for part in (rows[:quarter], rows[-quarter:])],
            "margin": [round(fmean(part), 3) for part in (margins[:quarter], margins[-quarter:])],
            "tokens_per_second": round(fmean(row["tokens_per_second"] for row in rows)),
        }


def tuples() -> list[GradedTuple]:
    draw = random.Random(SEED)
    lines = (DATA_SETS / "snli_small" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    premises = list({row["query"]: row for row in rows}.values())
    draw.shuffle(premises)
    texts = [row["query"] for row in premises]
    judge = Bm25Judge("english", texts, texts)
    return [graded(str(place), row, premises, judge, draw) for place, row in enumerate(premises[:TUPLES])]


def graded(
    id: str, row: dict[str, Any], premises: list[dict[str, Any]], judge: Bm25Judge, draw: random.Random
) -> GradedTuple:
    others = [other for other in draw.sample(premises, CANDIDATES) if other is not row]
    nearness = judge.scores([(row["query"], other["query"]) for other in others])
    nearest = others[max(range(len(others)), key=nearness.__getitem__)]
    texts = {1: draw.choice(others)["positive"], 2: nearest["positive"]}
    for negative in row["graded_negatives"]:
        texts[4 if negative["level"] == "neutral" else 3] = negative["text"]
    negatives = tuple(Negative(text, grade, 0.0, "mined") for grade, text in sorted(texts.items()))
    return GradedTuple(id, row["query"], row["positive"], negatives)


def similarity(model: SentenceTransformer) -> float | None:
    """Return Spearman's correlation on STS-B dev, or None without the data."""
    if not (DATA_SETS / "stsb").is_dir():
        return None
    lines = (DATA_SETS / "stsb" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:400]]
    one = encode(model, [row["sentence1"] for row in rows], "document", "STS-B")
    other = encode(model, [row["sentence2"] for row in rows], "document", "STS-B")
    return round(float(spearmanr((one * other).sum(axis=1), [row["score"] for row in rows]).statistic), 4)


if __name__ == "__main__":
    main()
