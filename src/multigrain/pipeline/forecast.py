"""Forecast how long a run takes, and whether its training suits the number of pairs. Does not import torch.

The speeds were measured (docs/benchmarks.md, docs/decisions.md), and are scaled by the cores and the size of the model.
They are good enough to tell minutes from hours, and hours from days.
"""

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from multigrain.config import Config, TrainingSection
from multigrain.errors import MultigrainError
from multigrain.evaluation.tasks import HELD_OUT
from multigrain.llm.budget import Usage
from multigrain.model.files import EMBEDDED_LLM
from multigrain.model.locate import find_base
from multigrain.model.saved_settings import HIDDEN_SIZES, LAYER_COUNTS
from multigrain.training.grade_schedules import epochs_told, phases_of

EMBEDDED_REQUESTS = 1.25
"""Requests per second and core that the embedded language model answers: 1.4 to 3.6 on two cores, by their kind."""
LATENCY, WRITTEN_TOKENS = 1.0, 50
"""Seconds until an endpoint starts its answer, and tokens per second that it then writes."""
ENCODED_TOKENS, TRAINED_TOKENS = 4000, 1100
"""Tokens per second and core that all-MiniLM-L6-v2 encodes, and that it is trained on."""
MINILM, SMOLLM = (6, 384), (30, 576)
"""Layers and width. The time per token is about proportional to layers x width^2."""
CANDIDATE_TOKENS = 30
"""Assumed length of a written candidate, in tokens."""
MUCH, MANY_TIMES, LONG = 2, 20, 86_400
"""Limits above which to warn: pairs for each one that training sees, times that it sees a pair, seconds of requests."""


@dataclass(frozen=True)
class Size:
    """The size of a run's data."""

    pairs: int
    """Training pairs."""
    documents: int
    """Documents of the corpus."""
    tokens: int
    """Mean length of a document, in tokens."""
    query_tokens: int | None = None
    """Mean length of a query, in tokens; None if unknown, then that of a document is used."""


def forecast(
    config: Config, size: Size, asked: Usage, done: Collection[str] = (), training: float | None = None
) -> list[str]:
    """Return lines that forecast the time of each stage and the pairs that training sees, with warnings.

    Args:
        config: the run.
        size: size of its data.
        asked: likely usage of the language model.
        done: stages to leave out because they are done.
        training: measured seconds of training, if known.
    """
    return [*_times(config, size, asked, done, training), _seen(config, size), *_warnings(config, size, asked)]


def _times(config: Config, size: Size, asked: Usage, done: Collection[str], training: float | None) -> list[str]:
    writing, mining = _generating(config, asked), _encoding(config, size.documents * size.tokens)
    seconds = {
        "synthesize": None if writing is None or mining is None else writing + mining,
        "grade": _encoding(config, asked.calls * CANDIDATE_TOKENS),
        **({"adapt": _adapting(config)} if config.adapt else {}),
        "train": _training(config, size) if training is None else training,
        "evaluate": _evaluation(config, size),
    }
    told = [f"{name} {duration(seconds[name])}" for name in seconds if name not in done]
    where = f"on {_cores()} CPU cores"
    if _has_gpu():
        where += " (the GPU is faster; by how much is unknown)"
    return [f"  time        about, {where}: {', '.join(told)}"] if told else []


def _seen(config: Config, size: Size) -> str:
    section = config.training
    batch, total = section.batch_of(size.pairs), section.total_steps(size.pairs)
    epochs = epochs_told(total * batch / max(size.pairs, 1))
    about = "about " if config.writing else ""  # the number that filters keep is not known yet
    steps = f"{total:,} steps x {batch}"
    return f"  seen        {section.seen(size.pairs):,} of {about}{size.pairs:,} pairs by training ({steps}): {epochs}"


def _warnings(config: Config, size: Size, asked: Usage) -> list[str]:
    section, lines = config.training, []
    batch = section.batch_of(size.pairs)
    seen = section.total_steps(size.pairs) * batch
    once = -(-size.pairs // batch)
    if size.pairs > MUCH * seen:
        lines.append(
            f"training sees {seen / size.pairs:.0%} of the pairs; {once:,} steps see each once (training.epochs = 1), "
            f"or use fewer pairs: {'limit in [[data.sources]]' if config.data.sources else f'data.limit = {seen}'}"
        )
    elif seen > MANY_TIMES * size.pairs:
        lines.append(
            f"training sees each pair about {seen / max(size.pairs, 1):.0f} times; give more pairs, or lower "
            f"training.steps ({once} see each once)"
        )
    seconds = _generating(config, asked)
    if seconds is not None and seconds > LONG:
        lines.append(
            f"the language model takes about {duration(seconds)}; lower synthesis.limit, or use a faster model "
            '(llm.provider = "endpoint")'
        )
    return [f"  warning     {line}" for line in lines]


def _generating(config: Config, asked: Usage) -> float | None:
    """Return the seconds until the language model has answered all requests."""
    if config.llm.provider == "embedded":
        return asked.calls / (EMBEDDED_REQUESTS * _cores())
    if config.llm.provider == "scripted" or not asked.calls:
        return 0.0
    each = LATENCY + asked.completion_tokens / asked.calls / WRITTEN_TOKENS
    return asked.calls * each / (config.llm.max_concurrency * len(config.llm.base_url))


def _encoding(config: Config, tokens: int) -> float | None:
    """Return the seconds that the judge takes to encode the tokens."""
    return _seconds(config.grading.judge_model, tokens, ENCODED_TOKENS)


def _adapting(config: Config) -> float | None:
    """Return the seconds of adapting the base, whose cost per token is about that of training."""
    assert config.adapt is not None
    return _seconds(config.model.base, config.adapt.tokens, TRAINED_TOKENS)


def _training(config: Config, size: Size) -> float | None:
    """Return the seconds of training, if each tuple has a query, a positive and a negative of each grade."""
    return _seconds(config.model.base, tokens_trained(config, size), TRAINED_TOKENS)


def tokens_trained(config: Config, size: Size) -> int:
    """Return the approximate number of tokens in all steps of a training."""
    queries, documents = texts_trained(config.training, size.pairs)
    longest = config.training.max_tokens or config.model.max_tokens
    lengths = (size.tokens if size.query_tokens is None else size.query_tokens, size.tokens)
    return sum(count * min(length, longest) for count, length in zip((queries, documents), lengths, strict=True))


def texts_trained(section: TrainingSection, pairs: int) -> tuple[int, int]:
    """Return the numbers of queries and documents in all steps of a training, if each grade has a negative."""
    queries, documents = 0, 0
    for phase in phases_of(section, tuples=pairs):
        rows = (phase.steps or 0) * section.batch_of(pairs)
        queries += rows
        documents += rows * (1 + (1 if phase.one_at_a_time else len(phase.grades)))
    return queries, documents


def _evaluation(config: Config, size: Size) -> float | None:
    """Return the seconds that the base and the trained model take for the run's own corpus.

    None if there are other tasks, whose size is not known here.
    """
    if config.evaluation.tasks != [HELD_OUT]:
        return None
    tokens = min(size.tokens, config.model.max_tokens)
    return _seconds(config.model.base, 2 * size.documents * tokens, ENCODED_TOKENS)


def _seconds(model: str, tokens: int, speed: int) -> float | None:
    """Return the seconds for the tokens; all-MiniLM-L6-v2 processes `speed` tokens per second and core."""
    shape = layers_and_width(model)
    return None if shape is None else tokens * _work(shape) / (_work(MINILM) * speed * _cores())


def _work(shape: tuple[int, int]) -> int:
    layers, width = shape
    return layers * width**2


def layers_and_width(model: str) -> tuple[int, int] | None:
    """Return the number of layers and the width of a model on this disk; None if unknown."""
    if model == EMBEDDED_LLM:
        return SMOLLM
    try:
        settings = json.loads(Path(find_base(model, "model"), "config.json").read_text(encoding="utf-8"))
        layers = next(settings[name] for name in LAYER_COUNTS if name in settings)
        width = next(settings[name] for name in HIDDEN_SIZES if name in settings)
        return int(layers), int(width)
    except (OSError, ValueError, TypeError, StopIteration, RuntimeError, MultigrainError):  # a file of unknown origin
        return None


def duration(seconds: float | None) -> str:
    """Return a rough duration in words.

    >>> [duration(seconds) for seconds in (None, 20, 400, 7_500, 400_000)]
    ['unknown', 'under a minute', '7 min', '2.1 h', '4.6 days']
    """
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return "under a minute"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()
