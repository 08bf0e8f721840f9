"""Measure all cells of one model: its graphs beside torch."""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]
from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

from benchmarks.shared.data_sets import DATA_SETS
from multigrain.config import ModelSection
from multigrain.export.onnx import export_onnx
from multigrain.model.build import build_model
from multigrain.model.roles import Vectors

DATA = DATA_SETS / "stsb" / "dev.jsonl"
MODELS = {"minilm": ModelSection(), "smollm2": ModelSection(base="embedded-llm", bidirectional=True)}
SEED = 0
SHAPES = [(batch, length) for batch in (1, 32) for length in (16, 64, 256)]
ROUNDS = {("minilm", 1): 41, ("minilm", 32): 9, ("smollm2", 1): 9, ("smollm2", 32): 5}
SENTENCES = {"minilm": 500, "smollm2": 100}
LARGEST = 5_000
"""Tokens below which the larger model is measured; a round would otherwise take minutes."""
Way = Callable[[dict[str, torch.Tensor]], Vectors]


def measure(name: str) -> dict[str, Any]:
    """Measure all cells of one model, in a separate process."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = build_model(MODELS[name]).eval()
    with TemporaryDirectory() as root:
        folder = Path(root, "onnx")
        begun = time.perf_counter()
        export_onnx(model, folder, int8=True)
        result: dict[str, Any] = {"export_seconds": round(time.perf_counter() - begun, 1)}
        graphs = {"onnx": folder / "model.onnx", "int8": folder / "model_int8.onnx", "dynamic": folder / "dynamic.onnx"}
        quantize_dynamic(graphs["onnx"], graphs["dynamic"], per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
        ways: dict[str, Way] = {
            "torch": partial(by_torch, model),
            **{way: by_onnx(path) for way, path in graphs.items()},
        }
        result["megabytes"] = {way: round(path.stat().st_size / 1e6, 1) for way, path in graphs.items()}
    result["parity"] = parity(model, ways, sentences(SENTENCES[name]))
    print(name, json.dumps(result), flush=True)
    result["cells"] = {}
    for batch, length in SHAPES:
        if name == "minilm" or batch * length < LARGEST:
            cell = result["cells"][f"batch {batch}, {length} tokens"] = speed(ways, batch, length, ROUNDS[name, batch])
            print(name, batch, length, json.dumps(cell), flush=True)
    return result


def by_torch(model: Any, features: dict[str, torch.Tensor]) -> Vectors:
    with torch.no_grad():
        vectors: Vectors = model(dict(features))["sentence_embedding"].numpy()
    return vectors


def by_onnx(path: Path) -> Way:
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def embed(features: dict[str, torch.Tensor]) -> Vectors:
        inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
        vectors: Vectors = session.run(None, inputs)[0]
        return vectors

    return embed


def sentences(count: int) -> list[str]:
    """Return sentences at even distances from the whole file."""
    rows = [json.loads(line)["sentence1"] for line in DATA.read_text(encoding="utf-8").splitlines()]
    return rows[:: len(rows) // count][:count]


def parity(model: Any, ways: dict[str, Way], texts: list[str]) -> dict[str, Any]:
    """Measure how close each graph's vectors are to torch's of each text alone."""
    result: dict[str, Any] = {"sentences": len(texts)}
    alone, batched = batches(model, texts, 1), batches(model, texts, 32)
    expected = np.concatenate([ways["torch"](batch) for batch in alone])
    for way in list(ways)[1:]:
        for kind, cut in (("alone", alone), ("batches of 32", batched)):
            found = np.concatenate([ways[way](batch) for batch in cut])
            result[f"{way}, {kind}"] = nearness(found, expected)
    return result


def batches(model: Any, texts: list[str], size: int) -> list[dict[str, torch.Tensor]]:
    return [model.preprocess(texts[start : start + size]) for start in range(0, len(texts), size)]


def nearness(found: Vectors, expected: Vectors) -> dict[str, float]:
    cosines = (found * expected).sum(1)
    low, five, middle = (round(float(np.quantile(cosines, share)), 5) for share in (0, 0.05, 0.5))
    apart = float(f"{np.abs(found - expected).max():.2g}")
    return {"largest_difference": apart, "lowest_cosine": low, "cosine_of_5_percent": five, "median_cosine": middle}


def speed(ways: dict[str, Way], batch: int, length: int, rounds: int) -> dict[str, Any]:
    """Return median seconds of each way, and torch's time over its own in the same round."""
    tokens = torch.randint(1000, 2000, (batch, length))
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, embed in ways.items():
            begun = time.process_time()
            embed(features)
            if number:  # the first round is the warm-up
                times[way].append(time.process_time() - begun)
    result: dict[str, Any] = {"rounds": rounds}
    for way in ways:
        ratios = [torch_time / own for torch_time, own in zip(times["torch"], times[way], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        result[way] = {"milliseconds": round(1e3 * statistics.median(times[way]), 2)}
        if way != "torch":
            result[way] |= {"speedup": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
    return result
