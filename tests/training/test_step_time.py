"""Timing micro-batches: what is timed, and that it is what training does."""

from pathlib import Path

import pytest
import torch

from multigrain.config import ModelSection, TrainingSection
from multigrain.model.build import build_model
from multigrain.training import step_time
from multigrain.training.step_time import _count, time_steps
from tests.conftest import small_pairs


def test_so_many_pairs_are_timed_as_have_the_tokens() -> None:
    queries, documents = [4, 4, 4, 4], [6, 16, 6, 6]  # 10, 30, 40, 50 together
    assert [_count([queries, documents], tokens) for tokens in (1, 30, 31, 40, 99)] == [2, 2, 3, 3, 4]


def test_a_token_has_its_share_of_the_time(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks at each look: 1 s of training a turn, and 1 s of the optimizer."""
    ticks = iter(range(100))
    monkeypatch.setattr(step_time, "_now", lambda _: float(next(ticks)))
    model = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24))
    pairs = small_pairs(20)
    section = TrainingSection(micro_batch_tokens=20, max_tokens=10)
    found = time_steps(model, section, [p["query"] for p in pairs], [p["positive"] for p in pairs])
    assert found.query_tokens == 7  # five words, [CLS] and [SEP]
    assert found.document_tokens == 10 == model.max_seq_length
    assert found.tokens >= 4 * 20 > found.tokens - 17 and found.per_token == 1 / found.tokens
    assert found.optimizer == 1


def test_the_weights_stay_where_they_are_but_for_next_to_nothing(tiny_encoder: Path) -> None:
    model = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pairs = small_pairs(6)
    found = time_steps(model, TrainingSection(), [p["query"] for p in pairs], [p["positive"] for p in pairs])
    assert found.per_token > 0 and found.optimizer > 0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-7, rtol=0)
