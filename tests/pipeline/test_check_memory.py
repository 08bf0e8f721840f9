"""What is told of the memory that training needs."""

from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config
from multigrain.pipeline import check_memory
from multigrain.pipeline.check_memory import memory_lines, share_encoded_twice, training_memory
from multigrain.pipeline.forecast import Size
from tests.pipeline.drawn_pairs import config

SIZE = Size(pairs=1000, documents=1000, tokens=100)
MINILM = 22_713_216
"""Numbers in the weights of all-MiniLM-L6-v2, as its card says (22.7 million)."""


def needed(size: Size = SIZE, **sections: Any) -> tuple[float, float]:
    """Return the megabytes of weights and of activations."""
    found = training_memory(config(**sections), size)
    assert found is not None
    assert found.total == found.weights + found.activations + check_memory.LIBRARIES
    return round(found.weights / 1e6, 1), round(found.activations / 1e6, 1)


def test_weights_gradients_and_moments_have_sixteen_bytes_a_weight() -> None:
    weights, _ = needed()
    assert weights == round(16 * MINILM / 1e6, 1)
    assert needed(training={"base_share": 0.5})[0] == round(20 * MINILM / 1e6, 1)


def test_an_adapter_alone_has_gradients() -> None:
    """SmolLM2: 4 bytes a weight, and 12 for each of the adapter's 2 x 18 x 576 x 8 (0.75 bytes in 4 bits)."""
    lora = {"rank": 8, "top_layers": 2}
    base = {"base": "embedded-llm", "pooling": "last"}
    trained = 2 * 18 * 576 * 8
    weights, _ = needed(model={**base, "lora": lora})
    assert weights == round((4 * 134_515_008 + 12 * trained) / 1e6, 1)
    weights, _ = needed(model={**base, "lora": {**lora, "quantize": "4bit"}})
    assert weights == round((0.75 * 134_515_008 + 12 * trained) / 1e6, 1)


def test_activations_are_those_of_a_step_as_far_as_they_may_be_kept() -> None:
    """A token of MiniLM has 68 x 6 x 384 = 156,672 bytes; in-batch, 10 pairs are 20 texts of 100 tokens."""
    training = {"schedule": "in-batch", "batch_size": 10}
    assert needed(training=training)[1] == 313.3  # 2,000 tokens
    assert needed(training={**training, "activation_gb": 0.1})[1] == 260.4  # and a micro-batch of 1,024
    assert needed(training={**training, "activation_gb": 0.0, "micro_batch_tokens": 100})[1] == 15.7
    assert needed(training={**training, "max_tokens": 50})[1] == 156.7
    assert needed(Size(4, 4, 100), training=training)[1] == 125.3  # 8 texts
    assert needed(Size(1000, 1000, 100, query_tokens=10), training=training)[1] == 172.3  # 10 x (10 + 100) tokens
    settings = config(training={**training, "activation_gb": 0.156672})
    assert share_encoded_twice(settings, 2000) == pytest.approx(0.5)
    assert share_encoded_twice(settings, 900) == 0


def test_dropout_of_an_adapter_is_kept_too() -> None:
    """Of SmolLM2's 30 layers of width 576, each token has 68 bytes, and 50 more in layers with an adapter.

    Measured: 1,536 tokens took 3.5 GB, of which 0.8 GB were copies of the weights in half precision.
    """
    training = {"schedule": "in-batch", "batch_size": 5}
    base = {"base": "embedded-llm", "pooling": "last"}
    assert needed(training=training, model={**base, "lora": {"dropout": 0.0}})[1] == 1175.0  # 1,000 tokens
    assert needed(training=training, model={**base, "lora": {}})[1] == 2039.0
    assert needed(training=training, model={**base, "lora": {"top_layers": 10}})[1] == 1463.0


def test_a_base_that_is_not_here(tmp_path: Path) -> None:
    absent: Config = config(model={"base": "somebody/elses"})
    assert training_memory(absent, SIZE) is None and share_encoded_twice(absent, 9.0) == 0
    assert memory_lines(absent, SIZE) == ["  memory      of training: unknown, the base is not downloaded yet"]


def test_more_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"schedule": "in-batch", "batch_size": 10}
    (line,) = memory_lines(config(training=training), SIZE)
    assert line.startswith(
        "  memory      of training: about 1.3 GB (0.4 weights, gradients and optimizer, 0.3 activations"
    )
    monkeypatch.setattr(check_memory, "_there", lambda: 10**9)
    _, warning = memory_lines(config(training=training), SIZE)
    assert "training needs about 1.3 GB, and this machine has 1.0 GB; lower training.activation_gb" in warning
