"""Forecast how long a run takes, and whether its pairs and its training fit each other. No torch.

The speeds are measured ones (docs/benchmarks.md, docs/decisions.md), scaled by the cores and by the size of the model.
They tell minutes from hours and hours from days, and no more.
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
"""Requests that the embedded language model answers in a second on a core: 1.4 to 3.6 on two, by their kind."""
LATENCY, WRITTEN_TOKENS = 1.0, 50
"""Seconds until an endpoint begins its answer, and the tokens that it then writes in a second."""
ENCODED_TOKENS, TRAINED_TOKENS = 4000, 1100
"""Tokens that all-MiniLM-L6-v2 encodes, and those that it is trained on, in a second on a core."""
MINILM, SMOLLM = (6, 384), (30, 576)
"""Layers and width. The time of a token is about proportional to layers x width^2."""
CANDIDATE_TOKENS = 30
"""Tokens of a candidate that a language model has written."""
MUCH, MANY_TIMES, LONG = 2, 20, 86_400
"""Pairs for each that training sees, times that it sees one, and seconds of asking, beyond which a run is odd."""


@dataclass(frozen=True)
class Size:
    """The size of a run's data."""

    pairs: int
    """Training pairs."""
    documents: int
    """Documents of the corpus."""
    tokens: int
    """Tokens of a document, on average."""
    query_tokens: int | None = None
    """Tokens of a query, on average. None: nobody knows, and it is taken for a document."""


def forecast(
    config: Config, size: Size, asked: Usage, done: Collection[str] = (), training: float | None = None
) -> list[str]:
    """Tell in lines how long each stage takes, what training sees, and what is odd about it.

    Args:
        config: the run.
        size: of its data.
        asked: what the language model is likely to be asked.
        done: stages of which nothing needs to be said.
        training: the seconds of training, where they have been measured.
    """
    return [*_times(config, size, asked, done, training), _seen(config, size), *_warnings(config, size, asked)]


def _times(config: Config, size: Size, asked: Usage, done: Collection[str], training: float | None) -> list[str]:
    writing, mining = _generating(config, asked), _encoding(config, size.documents * size.tokens)
    seconds = {
        "synthesize": None if writing is None or mining is None else writing + mining,
        "grade": _encoding(config, asked.calls * CANDIDATE_TOKENS),
        "train": _training(config, size) if training is None else training,
        "evaluate": _evaluation(config, size),
    }
    told = [f"{name} {duration(seconds[name])}" for name in seconds if name not in done]
    where = f"on {_cores()} CPU cores"
    if _has_gpu():
        where += " (a GPU is there, and faster; by how much is not known)"
    return [f"  time        about, {where}: {', '.join(told)}"] if told else []


def _seen(config: Config, size: Size) -> str:
    section = config.training
    batch, total = section.batch_of(size.pairs), section.total_steps(size.pairs)
    epochs = epochs_told(total * batch / max(size.pairs, 1))
    about = "" if config.synthesis.mode == "negatives" else "about "  # how many are written well is not known yet
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
            f"or cut them with data.limit = {seen}"
        )
    elif seen > MANY_TIMES * size.pairs:
        lines.append(
            f"training sees each pair about {seen / max(size.pairs, 1):.0f} times; give more pairs, or fewer "
            f"training.steps ({once} see each once)"
        )
    seconds = _generating(config, asked)
    if seconds is not None and seconds > LONG:
        lines.append(
            f"asking the language model takes about {duration(seconds)}; lower synthesis.limit, or take a faster "
            'model (llm.provider = "endpoint")'
        )
    return [f"  beware      {line}" for line in lines]


def _generating(config: Config, asked: Usage) -> float | None:
    """Return the seconds until the language model has answered."""
    if config.llm.provider == "embedded":
        return asked.calls / (EMBEDDED_REQUESTS * _cores())
    if config.llm.provider == "scripted" or not asked.calls:
        return 0.0
    each = LATENCY + asked.completion_tokens / asked.calls / WRITTEN_TOKENS
    return asked.calls * each / (config.llm.max_concurrency * len(config.llm.base_url))


def _encoding(config: Config, tokens: int) -> float | None:
    """Return the seconds that the judge takes to encode so many tokens."""
    return _seconds(config.grading.judge_model, tokens, ENCODED_TOKENS)


def _training(config: Config, size: Size) -> float | None:
    """Return the seconds of training, where a tuple brings query, positive and a negative of each grade."""
    return _seconds(config.model.base, tokens_trained(config, size), TRAINED_TOKENS)


def tokens_trained(config: Config, size: Size) -> int:
    """Return about how many tokens the steps of a training hold."""
    queries, documents = texts_trained(config.training, size.pairs)
    longest = config.training.max_tokens or config.model.max_tokens
    lengths = (size.tokens if size.query_tokens is None else size.query_tokens, size.tokens)
    return sum(count * min(length, longest) for count, length in zip((queries, documents), lengths, strict=True))


def texts_trained(section: TrainingSection, pairs: int) -> tuple[int, int]:
    """Return how many queries and how many documents the steps of a training hold, if each grade has a negative."""
    queries, documents = 0, 0
    for phase in phases_of(section, tuples=pairs):
        rows = (phase.steps or 0) * section.batch_of(pairs)
        queries += rows
        documents += rows * (1 + (1 if phase.one_at_a_time else len(phase.grades)))
    return queries, documents


def _evaluation(config: Config, size: Size) -> float | None:
    """Return the seconds that the base and the trained model take for the run's own corpus.

    None where there are other tasks: how large these are is not known here.
    """
    if config.evaluation.tasks != [HELD_OUT]:
        return None
    tokens = min(size.tokens, config.model.max_tokens)
    return _seconds(config.model.base, 2 * size.documents * tokens, ENCODED_TOKENS)


def _seconds(model: str, tokens: int, speed: int) -> float | None:
    """Return the seconds for so many tokens, of which all-MiniLM-L6-v2 does `speed` in a second on a core."""
    shape = layers_and_width(model)
    return None if shape is None else tokens * _work(shape) / (_work(MINILM) * speed * _cores())


def _work(shape: tuple[int, int]) -> int:
    layers, width = shape
    return layers * width**2


def layers_and_width(model: str) -> tuple[int, int] | None:
    """Return the layers and the width of a model that is on this disk; None where nobody knows."""
    if model == EMBEDDED_LLM:
        return SMOLLM
    try:
        settings = json.loads(Path(find_base(model, "model"), "config.json").read_text(encoding="utf-8"))
        layers = next(settings[name] for name in LAYER_COUNTS if name in settings)
        width = next(settings[name] for name in HIDDEN_SIZES if name in settings)
        return int(layers), int(width)
    except (OSError, ValueError, TypeError, StopIteration, RuntimeError, MultigrainError):  # comes from elsewhere
        return None


def duration(seconds: float | None) -> str:
    """Return a duration in words, roughly.

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
