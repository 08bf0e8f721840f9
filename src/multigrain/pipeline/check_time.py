"""Measure how long the training of a run will take, on its own texts and its own base."""

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
"""Pairs whose texts stand for those of all."""
FORWARD = 1 / 3
"""The share of a text's cost that encoding it a second time adds (GradCache)."""


class Measured(NamedTuple):
    """What a measurement of the training says."""

    seconds: float
    """Of the whole training."""
    line: str
    """What was measured, in words."""


def measured_training(config: Config, size: Size | None, pairs: Sequence[Pair]) -> Measured:
    """Train the base on a few micro-batches of the run's texts, and tell how long all steps will take.

    For S steps of N tokens, it is S (N t (1 + r / 3) + o) seconds: t for a token that is encoded once, o for the
    optimizer, and r the share of the tokens that are encoded twice. So were some of those that are timed.

    Args:
        config: the run.
        size: of its data.
        pairs: of the input; those in the run folder come first, where it has some.

    Raises:
        DataError: the pairs are not there yet.
        ConfigError: the base cannot be built as the settings ask.
    """
    sample = _sample(config, pairs)
    if size is None or len(sample) < 2:
        raise DataError(
            "--time",
            f"found {len(sample)} pairs; wanted 2, to train on their texts. Where the language model writes the pairs, "
            "run: multigrain synthesize RUN.toml",
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
    speed = f"{1 / once:,.0f} tokens a second in training, timed on {found.tokens:,} of the run's texts"
    lengths = f"{found.query_tokens:.0f} tokens a query, {found.document_tokens:.0f} a document"
    return Measured(seconds, f"{speed}; {lengths}" + (f"; {twice:.0%} of them encoded twice" if twice else ""))


def _sample(config: Config, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return some pairs in random order, of the run folder or else of the input."""
    train = RunDir(config.folder).train_pairs
    known, count = (read_pairs(train), count_lines(train)) if train.is_file() else (iter(pairs), len(pairs))
    sample = list(choose(known, count, SAMPLE, config.seed))
    random.Random(config.seed).shuffle(sample)
    return sample
