"""Count what a run will take, from its settings alone: no data, weights or network are needed.

    multigrain check RUN.toml --plan

The counts are of pairs, requests, tokens, GPU hours and disk. They are for runs that are planned on one machine and
done on another. Lengths of texts are assumed, and a GPU is assumed to do a fixed share of its highest speed. With P
parameters and N tokens, a forward pass takes 2 P N operations and a step of training 6 P N (arXiv 2001.08361).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from multigrain.config import Config, described_adaptation
from multigrain.data.hub_datasets import HUB
from multigrain.errors import ConfigError
from multigrain.evaluation.mteb_tasks import tokens_of
from multigrain.evaluation.tasks import MTEB
from multigrain.llm.budget import Prices, Usage, prices_of
from multigrain.llm.clients.factory import model_name
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, folder_of, is_gguf
from multigrain.pipeline.check import INDENT, line
from multigrain.pipeline.check_inputs import WRITTEN_TOKENS, pairs_kept
from multigrain.pipeline.check_memory import GB, weights_of
from multigrain.pipeline.forecast import Size, layers_and_width, tokens_trained
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.estimate import BYTES_PER_TOKEN, likely_usage, usage_bound
from multigrain.records import Document, Pair
from multigrain.synthesis.queries import plan_queries
from multigrain.synthesis.search_tasks import KINDS, SearchTask

QUERY_TOKENS = 20
"""Assumed length of a query, in tokens; that of a document is `WRITTEN_TOKENS`."""
GPU, GPU_SPEED, GPU_SHARE = "H100", 989e12, 0.3
"""The assumed GPU, its highest speed in bf16 (operations per second), and the share of it that training reaches."""
FORWARD, STEP = 2, 6
"""Operations per parameter and token."""
SIZE_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([MB])(?!\w)", re.IGNORECASE)
"""Number of parameters in the name of a model, such as 7B or 135M."""
UNKNOWN_WIDTH = 1024
"""Assumed width of the vectors of a judge that is not on this disk."""


class Planned(NamedTuple):
    """A source as far as the settings tell it."""

    description: str
    """Where its pairs come from, and how many, in words."""
    pairs: int
    """Likely number of training pairs."""


def plan(config: Config) -> str:
    """Describe the run by counts from its settings: pairs, requests, tokens, GPU hours, disk.

    Raises:
        ConfigError: the number of pairs of a source is open, because it has no `limit`.
    """
    sources = planned_sources(config)
    pairs = sum(source.pairs for source in sources.values())
    size = Size(pairs, documents=pairs, tokens=WRITTEN_TOKENS, query_tokens=QUERY_TOKENS)
    asked = usage(config, size.pairs)
    tokens = tokens_by_stage(config, size, asked)
    lines = [
        f"{config.name}: counted from the settings; no data, weights or network were read",
        line("data", f"about {size.pairs:,} training pairs"),
        *(f"{INDENT}{name}: {source.description}" for name, source in sources.items()),
        line("asking", _requests(config, asked)),
        *([line("adapting", described_adaptation(config.adapt))] if config.adapt else []),
        line("training", _training(config, size, tokens["train"])),
        line("evaluation", _evaluation(config, tokens["evaluate"])),
        line("assumed", f"{QUERY_TOKENS} tokens a query, {WRITTEN_TOKENS} a document, answers half as long as allowed"),
        *_computing(config, tokens),
        line("disk", _disk(config, size)),
    ]
    if downloads := list(dict.fromkeys(_downloads(config))):
        lines += [line("from hub", downloads[0]), *(INDENT + command for command in downloads[1:])]
    return "\n".join(lines)


def planned_sources(config: Config) -> dict[str, Planned]:
    """Return each source by its name; that of a run of one source is "pairs".

    Raises:
        ConfigError: the number of pairs of a source is open, because it has no `limit`.
    """
    written = {name or "pairs": _written(own) for name, own in config.writing.items()}
    data = config.data
    if not data.sources:
        return written or {"pairs": _given("data", data.pairs, data.limit)}
    given = {
        each.name: _given(f"source {each.name}", each.pairs, each.limit)
        for each in data.sources
        if each.mode == "pairs"
    }
    return {name: (written | given)[name] for name in data.source_names}


def _written(config: Config) -> Planned:
    """Count what is written for a source, of the run as it would be with this source alone."""
    section = config.synthesis
    if section.mode == "tasks":
        count = section.tasks * config.pairs_invented_each
        words = f"{count:,} pairs written for {section.tasks:,} search tasks in {len(section.domains)} fields"
        return _kept(config, count, words)
    passages = _passages(config)
    count = passages * section.queries_per_passage
    return _kept(config, count, f"{count:,} queries written for {passages:,} passages of {config.data.corpus}")


def _passages(config: Config) -> int:
    """Return the maximum number of passages that get queries, as `sample_passages` draws them from a large corpus."""
    limit, held_out = config.synthesis.limit, config.data.held_out
    assert not isinstance(held_out, list)  # a list names given sources
    return config.passages_asked if limit is None else min(config.passages_asked, round(limit / (1 - held_out)))


def _kept(config: Config, written: int, description: str) -> Planned:
    kept = pairs_kept(config, written)
    return Planned(f"{description}, of which about {kept:,} are kept to train on", kept)


def _given(key: str, pairs: str | None, limit: int | None) -> Planned:
    if limit is None:
        raise ConfigError("--plan", [f"{key}: found no limit, so its pairs cannot be counted; give it the key limit"])
    return Planned(f"{limit:,} pairs given by {pairs}", limit)


def usage(config: Config, pairs: int) -> Usage:
    """Return the likely usage of the language model, from prompts with texts of the assumed lengths.

    Args:
        config: the run.
        pairs: number of its training pairs.
    """
    query, passage = "x" * BYTES_PER_TOKEN * QUERY_TOKENS, "x " * (BYTES_PER_TOKEN * WRITTEN_TOKENS // 2)
    found = sum((_writing(own, query, passage) for own in config.writing.values()), Usage())
    most = usage_bound(config, [Pair("", query, passage)])
    likely = Usage(most.calls, most.prompt_tokens // BYTES_PER_TOKEN, most.completion_tokens // 2)
    return found + likely.times(config.pairs_asked(pairs))


def _writing(config: Config, query: str, passage: str) -> Usage:
    """Return the likely usage of writing the pairs of a source, of the run as it would be with this source alone."""
    section, model = config.synthesis, model_name(config.llm)
    if section.mode == "corpus":
        request = next(plan_queries(config, [Document("", passage)], model)).request
        return likely_usage(request, Prices()).times(_passages(config) * section.queries_per_passage)
    tasks = [SearchTask(query, KINDS[0].name, section.domains[0])]
    pair = likely_usage(next(plans.synthetic_pairs(config, tasks).prompts()).request, Prices())
    listed = sum((likely_usage(each.request, Prices()) for each in plans.brainstorm(config).prompts()), Usage())
    return listed + pair.times(section.tasks * config.pairs_invented_each)


def tokens_by_stage(config: Config, size: Size, asked: Usage) -> dict[str, int]:
    """Return the tokens that a model reads in each stage that needs a GPU."""
    corpus = size.documents * size.tokens
    queries = size.pairs * QUERY_TOKENS
    written = asked.completion_tokens
    return {
        **({"adapt": config.adapt.tokens} if config.adapt else {}),
        "grade": corpus + queries + written,
        "train": tokens_trained(config, size),
        "evaluate": 2 * tokens_of(name.removeprefix(MTEB) for name in config.evaluation.tasks if name.startswith(MTEB)),
    }


def _computing(config: Config, tokens: dict[str, int]) -> Iterator[str]:
    """Describe the GPU hours of each stage, and how they are estimated."""
    base, judge = parameters(config.model.base), parameters(config.grading.judge_model)
    if base is None:
        yield line("GPU hours", f"unknown: neither files nor name tell the size of {config.model.base}")
        return
    speed = GPU_SHARE * GPU_SPEED
    operations = {
        name: count * {"grade": FORWARD * (judge or 0), "evaluate": FORWARD * base}.get(name, STEP * base)
        for name, count in tokens.items()
    }
    hours = {name: count / speed / 3600 for name, count in operations.items()}
    yield line(
        "GPU hours", f"about {sum(hours.values()):,.1f}: " + ", ".join(f"{n} {h:,.1f}" for n, h in hours.items())
    )
    yield (
        f"{INDENT}for {base / 1e9:,.2f} G parameters: {STEP} operations per parameter and token in training, {FORWARD} "
        f"in encoding, at {GPU_SHARE:.0%} of the {GPU_SPEED / 1e12:,.0f} TFLOP/s of an {GPU}"
    )
    yield f"{INDENT}check RUN.toml --time measures the training on the machine at hand"


def parameters(model: str) -> float | None:
    """Return the number of parameters of a model by its files, or else by its name; None if neither tells.

    >>> parameters("example/Mistral-7B-Instruct")
    7000000000.0
    """
    if found := weights_of(model):
        return float(found)
    in_name = SIZE_IN_NAME.search(model)
    return None if in_name is None else float(in_name[1]) * {"m": 1e6, "b": 1e9}[in_name[2].lower()]


def _requests(config: Config, asked: Usage) -> str:
    if not asked.calls:
        return "no requests to a language model"
    priced = prices_of(config.llm)
    cost = f"about ${priced.of(asked.prompt_tokens, asked.completion_tokens):,.2f}" if priced else "at an unknown price"
    prompts, answers = asked.prompt_tokens / 1e6, asked.completion_tokens / 1e6
    told = f"{prompts:,.1f} million tokens in prompts and {answers:,.1f} in answers"
    return f"about {asked.calls:,} requests, {told}, {cost}"


def _evaluation(config: Config, tokens: int) -> str:
    names = ", ".join(config.evaluation.tasks)
    return f"{names}; the texts of mteb have {tokens / 2e6:,.0f} million tokens" if tokens else names


def _training(config: Config, size: Size, tokens: int) -> str:
    section = config.training
    batch, steps = section.batch_of(size.pairs), section.total_steps(size.pairs)
    return f"{section.schedule}, {steps:,} steps x {batch:,} pairs, {tokens / 1e6:,.1f} million tokens"


def _disk(config: Config, size: Size) -> str:
    """Describe the disk space: weights as they are downloaded (2 bytes) and saved (4 bytes), vectors and texts."""
    base = parameters(config.model.base) or 0
    shape = layers_and_width(config.grading.judge_model)
    vectors = (size.documents + size.pairs) * (shape[1] if shape else UNKNOWN_WIDTH) * 4
    texts = (size.documents * size.tokens + size.pairs * (QUERY_TOKENS + size.tokens)) * BYTES_PER_TOKEN
    parts = {"base": 2 * base, "vectors": vectors, "texts": texts}
    if config.adapt:
        parts["adapted base"] = 4 * base
    if config.model.lora is None:
        parts["trained model"] = 4 * base
    told = ", ".join(f"{name} {number / GB:,.1f}" for name, number in parts.items())
    return f"about {sum(parts.values()) / GB:,.0f} GB: {told}; data sets of the hub and of mteb come on top"


def _downloads(config: Config) -> Iterator[str]:
    """Yield the command that fetches each model and each dataset of the hub."""
    models = [config.model.base, config.grading.judge_model]
    for model in dict.fromkeys(models):
        if folder_of(model) is None and not is_gguf(model) and model not in (EMBEDDED, EMBEDDED_LLM):
            yield f"hf download {model}"
    places = [place for source in config.data.sources for place in (source.pairs, source.corpus)]
    for place in dict.fromkeys([*places, config.data.pairs, config.data.corpus]):
        if place and place.startswith(HUB):
            yield f"hf download {place.removeprefix(HUB).split(':')[0].split('@')[0]} --repo-type dataset"
