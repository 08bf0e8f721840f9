"""Measure one cell of the benchmark: a model, a length and a mode, pooled in each way."""

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

from multigrain.config import ModelSection
from multigrain.model.build import build_model

SEED = 0
LENGTHS = (128, 512, 2048, 4096)
TRAINED = {"minilm": (128, 512, 2048), "smollm2": (128, 512), "mistral-7b": ()}
BATCH = {128: 8}
"""Texts in a training step; one for other lengths, and always one in a forward pass."""
NAIVE_MB = 9_000
"""MB of attention weights above which the naive way is left out."""
Way = Literal["mean", "naive", "anchor"]
WAYS: tuple[Way, ...] = ("mean", "naive", "anchor")


def measure(model: str, mode: str, length: int, device: str, rounds: int) -> dict[str, Any]:
    """Measure one cell in separate processes."""
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
    """Return median seconds of each way, and its time over that of mean pooling in the same round."""
    benches = {way: Bench(model, way, length, device) for way in ways}
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, bench in benches.items():
            seconds = timed(partial(bench.step, mode, length), device)
            if number:  # the first round is the warm-up
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
    """Return seconds of processor time, or of wall time on an accelerator."""
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
    """Return the peak of one step, and its part above the loaded model."""
    bench = Bench(model, way, length, device)
    bench.step("forward", 8)  # unused weights are not in memory yet
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
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
    """Return a model that pools in one way."""

    def __init__(self, model: str, way: Way, length: int, device: str) -> None:
        torch.manual_seed(SEED)
        self.model: Any = {"minilm": minilm, "smollm2": smollm2, "mistral-7b": mistral}[model](way, length).to(device)
        self.device = device
        self.embed = self.by_modules
        if way == "naive":
            self.model[0].model.set_attn_implementation("eager")
            self.embed = self.naive

    def step(self, mode: str, length: int) -> None:
        """Run a forward pass, with a backward pass in training."""
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

    def by_modules(self, tokens: Tensor) -> Tensor:
        """Embed as sentence-transformers does: one module after the other."""
        features: dict[str, Tensor] = self.model({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        return features["sentence_embedding"]

    def naive(self, tokens: Tensor) -> Tensor:
        """Embed by the naive implementation of anchor pooling."""
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
    """Return the shape of Mistral-7B, bidirectional, with random weights; the frame around it is MiniLM's."""
    model = minilm(way, length)
    backbone = MistralModel(MistralConfig(sliding_window=None)).bfloat16()
    backbone.config.is_causal = False
    backbone.set_attn_implementation("sdpa")
    model[0].model = backbone
    if way == "anchor":
        model[1].on_model_ready(model)
    return model
