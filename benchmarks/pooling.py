"""What does anchor pooling cost beside mean pooling, and beside the obvious way to do it?

    OMP_NUM_THREADS=1 python -m benchmarks.pooling [--models minilm smollm2] [--rounds 9]
    python -m benchmarks.pooling --models mistral-7b --device cuda

Three ways to pool the same model: `mean` (the host's Transformer and Pooling), `anchor` (multigrain's), and `naive`
(eager attention, the weights of all layers kept, scores from the last). For each model, length and mode (forward, or a
training step with backward) the three run in turn in one process, round after round; the figure is the median of the
ratios to mean within a round, with quartiles. The peak of memory is taken in a process for each way: resident set
while it runs (`peak_mb`), and how much of that came on top of the loaded model (`extra_mb`).

No padding, random tokens and, beyond 512 tokens, random position embeddings for MiniLM. SmolLM2 is bidirectional.
`mistral-7b` has the shape of Mistral-7B with random weights, in bfloat16. Writes benchmarks/results/pooling.json after
each cell, and skips the cells that it finds there (--again measures those named anew); then its table into
docs/benchmarks.md.
"""

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralModel

from benchmarks.environment import environment, parser_of, require_commit
from benchmarks.pages import put_into
from multigrain.config import ModelSection
from multigrain.files import write_json
from multigrain.model.build import build_model

RESULTS = Path(__file__).with_name("results") / "pooling.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
SEED = 0
LENGTHS = (128, 512, 2048, 4096)
TRAINED = {"minilm": (128, 512, 2048), "smollm2": (128, 512), "mistral-7b": ()}
BATCH = {128: 8}
"""Texts in a training step; one where nothing is said, and always one in a forward pass."""
NAIVE_MB = 9_000
"""The naive way is left out where its attention weights alone would take more."""
Way = Literal["mean", "naive", "anchor"]
WAYS: tuple[Way, ...] = ("mean", "naive", "anchor")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=["minilm", "smollm2"], choices=TRAINED)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    require_commit(options)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": {}}
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
                    write_json(RESULTS, found)
                print(cell, json.dumps(found["cells"][cell]), flush=True)
    put_into(PAGE, "python -m benchmarks.pooling", table(found["cells"]))


def table(cells: dict[str, Any]) -> str:
    """What the documentation shows: time and peak of memory over mean pooling's."""
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


def measure(model: str, mode: str, length: int, device: str, rounds: int) -> dict[str, Any]:
    """One cell, in processes of its own."""
    ways = [way for way in WAYS if way != "naive" or naive_mb(model, mode, length) < NAIVE_MB]
    arguments = model, mode, length, device
    result: dict[str, Any] = {"batch": batch_of(mode, length), **alone(ratios, *arguments, ways, rounds)}
    for way in ways:
        result[way].update(alone(memory, *arguments, way))
    for way in ways[1:]:
        result[way]["peak_ratio"] = round(result[way]["peak_mb"] / result["mean"]["peak_mb"], 3)
    return result


def alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def naive_mb(model: str, mode: str, length: int) -> float:
    layers, heads = {"minilm": (6, 12), "smollm2": (30, 9), "mistral-7b": (32, 32)}[model]
    each = 2 if model == "mistral-7b" else 4
    kept = 3 if mode == "training" else 1
    return layers * heads * length**2 * each * kept * batch_of(mode, length) / 1e6


def batch_of(mode: str, length: int) -> int:
    return BATCH.get(length, 1) if mode == "training" else 1


def ratios(model: str, mode: str, length: int, device: str, ways: list[Way], rounds: int) -> dict[str, Any]:
    """Median seconds of each way, and its time over that of mean pooling in the same round."""
    benches = {way: Bench(model, way, length, device) for way in ways}
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, bench in benches.items():
            seconds = timed(partial(bench.step, mode, length), device)
            if number:  # the first round warms up
                times[way].append(seconds)
    result: dict[str, Any] = {}
    for way in ways:
        over_mean = [own / mean for own, mean in zip(times[way], times["mean"], strict=True)]
        low, middle, high = statistics.quantiles(over_mean, n=4)
        result[way] = {"seconds": round(statistics.median(times[way]), 4)}
        if way != "mean":
            result[way] |= {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
    return result


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of processor time, or on an accelerator of wall time."""
    if device == "cpu":
        begun = time.process_time()
        step()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def memory(model: str, mode: str, length: int, device: str, way: Way) -> dict[str, float]:
    """The peak of one step, and what of it is not the loaded model."""
    bench = Bench(model, way, length, device)
    bench.step("forward", 8)  # weights that were never used are not in memory
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _resident("VmRSS")
        bench.step(mode, length)
        peak = _resident("VmHWM")
    else:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        bench.step(mode, length)
        peak = torch.cuda.max_memory_allocated()
    return {"peak_mb": round(peak / 1e6, 1), "extra_mb": round((peak - before) / 1e6, 1)}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Bench:
    """A model that pools in one way."""

    def __init__(self, model: str, way: Way, length: int, device: str) -> None:
        torch.manual_seed(SEED)
        self.model: Any = {"minilm": minilm, "smollm2": smollm2, "mistral-7b": mistral}[model](way, length).to(device)
        self.device = device
        self.embed = self.host
        if way == "naive":
            self.model[0].model.set_attn_implementation("eager")
            self.embed = self.naive

    def step(self, mode: str, length: int) -> None:
        """A forward pass, with a backward pass in training."""
        tokens = torch.randint(1000, 2000, (batch_of(mode, length), length), device=self.device)
        if mode == "forward":
            with torch.no_grad():
                self.model.eval()
                self.embed(tokens)
            return
        self.model.train()
        self.model.zero_grad()
        embedding = self.embed(tokens)
        (embedding * torch.linspace(-1, 1, embedding.shape[1], device=self.device)).sum().backward()  # type: ignore[no-untyped-call]

    def host(self, tokens: Tensor) -> Tensor:
        """As sentence-transformers does it: the modules one after the other."""
        features: dict[str, Tensor] = self.model({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        return features["sentence_embedding"]

    def naive(self, tokens: Tensor) -> Tensor:
        """The first thing that comes to mind."""
        mask = torch.ones_like(tokens)
        output = self.model[0].model(input_ids=tokens, attention_mask=mask, output_attentions=True)
        scores = torch.log1p(tokens.shape[1] * output.attentions[-1].float()).sum((1, 2))
        weights = scores / scores.sum(1, keepdim=True)
        return nn.functional.normalize((weights[..., None] * output.last_hidden_state).sum(1), dim=1)


def minilm(way: Way, length: int) -> Any:
    model: Any = build_model(ModelSection(pooling="anchor" if way == "anchor" else "mean"))
    if length > 512:
        embeddings = model[0].model.embeddings
        embeddings.position_embeddings = nn.Embedding(length, embeddings.position_embeddings.embedding_dim)
        embeddings.register_buffer("position_ids", torch.arange(length)[None])
        embeddings.register_buffer("token_type_ids", torch.zeros(1, length, dtype=torch.long))
    return model


def smollm2(way: Way, _length: int) -> Any:
    return build_model(
        ModelSection(base="embedded-llm", bidirectional=True, pooling="anchor" if way == "anchor" else "mean")
    )


def mistral(way: Way, length: int) -> Any:
    """The shape of Mistral-7B, bidirectional, with random weights; the frame around it is MiniLM's."""
    model = minilm(way, length)
    backbone = MistralModel(MistralConfig(sliding_window=None)).bfloat16()
    backbone.config.is_causal = False
    backbone.set_attn_implementation("sdpa")
    model[0].model = backbone
    if way == "anchor":
        model[1].on_model_ready(model)
    return model


if __name__ == "__main__":
    main()
