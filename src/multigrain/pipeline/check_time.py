"""Measure how long the training of a run will take, with its own texts and base."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from multigrain.config import Config
from multigrain.data.jsonl import read_pairs
from multigrain.data.sampling import choose
from multigrain.errors import DataError
from multigrain.files import count_lines
from multigrain.pipeline.check_memory import share_encoded_twice
from multigrain.pipeline.forecast import Size, texts_trained
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair

SAMPLE = 500
"""Number of pairs to take texts from."""
FORWARD = 1 / 3
"""Additional cost of encoding a text a second time (GradCache), as a share of its cost."""


class Measured(NamedTuple):
    """The result of measuring the training."""

    seconds: float
    """Duration of the whole training, in seconds."""
    line: str
    """The measurement, in words."""


def measured_training(config: Config, size: Size | None, pairs: Sequence[Pair]) -> Measured:
    """Train the base on a few micro-batches of the run's texts, and forecast the time of all steps.

    For S steps of N tokens, it is S (N t (1 + r / 3) + o) seconds, with t the time of a token encoded once, o the time
    of the optimizer, and r the share of tokens encoded twice. Some of the timed tokens may be encoded twice as well.

    Args:
        config: the run.
        size: size of the run's data.
        pairs: pairs of the input, used if the run folder has none.

    Raises:
        DataError: the pairs do not exist yet.
        ConfigError: the base cannot be built with these settings.
    """
    sample = _sample(config, pairs)
    if size is None or len(sample) < 2:
        raise DataError(
            "--time",
            f"found {len(sample)} pairs; wanted at least 2, to train on their texts. If the language model writes the "
            "pairs, first run: multigrain synthesize RUN.toml",
        )
    from multigrain.model.build import build_model
    from multigrain.training.step_time import time_steps

    section, steps = config.training, config.training.total_steps(size.pairs)
    found = time_steps(
        build_model(config.model), section, [pair.query for pair in sample], [pair.positive for pair in sample]
    )
    queries, documents = texts_trained(section, size.pairs)
    tokens = (queries * found.query_tokens + documents * found.document_tokens) / steps
    twice = share_encoded_twice(config, tokens)
    once = found.per_token / (1 + FORWARD * share_encoded_twice(config, found.tokens))
    seconds = steps * (tokens * once * (1 + FORWARD * twice) + found.optimizer)
    speed = f"{1 / once:,.0f} tokens per second in training, timed on {found.tokens:,} tokens of the run's texts"
    lengths = f"{found.query_tokens:.0f} tokens per query, {found.document_tokens:.0f} per document"
    return Measured(seconds, f"{speed}; {lengths}" + (f"; {twice:.0%} of them encoded twice" if twice else ""))


def _sample(config: Config, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return some pairs in random order, from the run folder or else from the input."""
    train = RunDir(config.folder).train_pairs
    known, count = (read_pairs(train), count_lines(train)) if train.is_file() else (iter(pairs), len(pairs))
    sample = list(choose(known, count, SAMPLE, config.seed))
    random.Random(config.seed).shuffle(sample)
    return sample
