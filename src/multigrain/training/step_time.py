"""Time a few micro-batches of real texts, to estimate how long a training will take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

import torch
from sentence_transformers import SentenceTransformer

from multigrain.config import TrainingSection
from multigrain.model.precision import uses_bf16
from multigrain.model.roles import Role, prompt_for
from multigrain.training.loss import Encoding, GradedLoss
from multigrain.training.train import GB, MICRO_BATCH_TOKENS, ON_GPU, without_dropout
from multigrain.training.unique_texts import Features

MICRO_BATCHES = 4
"""Number of micro-batches timed together."""
TURNS = 2
"""Number of timed runs after a warm-up; the fastest counts, because other work may have slowed the others."""
LEARNING_RATE = 1e-9
"""Too small to change a weight; the cost of the optimizer does not depend on it."""


@dataclass(frozen=True)
class StepTime:
    """The measured time of training steps.

    Attributes:
        per_token: seconds to train on a token: forward pass, backward pass and loss.
        optimizer: seconds of the optimizer in a step.
        query_tokens: mean number of tokens in a query.
        document_tokens: mean number of tokens in a document.
        tokens: number of timed tokens.
    """

    per_token: float
    optimizer: float
    query_tokens: float
    document_tokens: float
    tokens: int


def time_steps(
    model: SentenceTransformer, section: TrainingSection, queries: Sequence[str], positives: Sequence[str]
) -> StepTime:
    """Time training on some pairs, done as the trainer does it, with in-batch negatives only.

    The model is useless afterwards. The output of frozen layers is not cached here, so a training that caches it
    (`training.frozen_cache_gb`) is faster than measured.

    Args:
        model: the model to train; it is timed on its own device.
        section: the training settings.
        queries: at least two queries, in random order.
        positives: the positives of the queries.
    """
    if section.max_tokens and model.max_seq_length:
        model.max_seq_length = min(section.max_tokens, model.max_seq_length)
    if not section.dropout:
        without_dropout(model)
    model.train()
    columns = [_features(model, "query", queries), _features(model, "document", positives)]
    lengths = [column["attention_mask"].sum(dim=1).tolist() for column in columns]
    micro_batch = section.micro_batch_tokens or MICRO_BATCH_TOKENS.get(model.device.type, ON_GPU)
    count = _count(lengths, MICRO_BATCHES * micro_batch)
    batch = [_first(column, count) for column in columns]
    bf16 = uses_bf16(section.precision, model.device)
    loss = GradedLoss(model, encoding=Encoding(micro_batch, int(section.activation_gb * GB), bf16))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=LEARNING_RATE)
    turns = [_turn(loss, optimizer, batch) for _ in range(TURNS + 1)][1:]
    tokens = max(loss.measures.tokens, 1)
    query_tokens, document_tokens = (fmean(each) for each in lengths)
    trained, optimized = (min(seconds) for seconds in zip(*turns, strict=True))
    return StepTime(trained / tokens, optimized, query_tokens, document_tokens, tokens)


def _features(model: SentenceTransformer, role: Role, texts: Sequence[str]) -> Features:
    features: Features = model.preprocess(list(texts), prompt=prompt_for(role, model.prompts) or None)
    return {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in features.items()}


def _count(lengths: Sequence[Sequence[int]], wanted: int) -> int:
    """Return how many pairs it takes to reach the wanted number of tokens: at least two, at most all."""
    sums = list(accumulate(map(sum, zip(*lengths, strict=True))))
    return min(len(sums), max(2, 1 + sum(total < wanted for total in sums)))


def _first(features: Features, count: int) -> Features:
    shape = features["input_ids"].shape
    return {
        key: value[:count] if torch.is_tensor(value) and value.shape[:2] == shape else value
        for key, value in features.items()
    }


def _turn(loss: GradedLoss, optimizer: torch.optim.Optimizer, batch: Sequence[Features]) -> tuple[float, float]:
    """Return the seconds of the forward and backward pass, and of the optimizer."""
    begun = _now(loss)
    loss([dict(column) for column in batch]).backward()
    trained = _now(loss)
    optimizer.step()
    optimizer.zero_grad()
    return trained - begun, _now(loss) - trained


def _now(loss: GradedLoss) -> float:
    if loss.model.device.type == "cuda":  # the GPU runs asynchronously
        torch.cuda.synchronize()
    return time.perf_counter()
