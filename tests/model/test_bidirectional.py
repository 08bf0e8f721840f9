"""Decoders whose upper layers alone see what comes after a token."""

from typing import Any, Literal

import numpy as np
import pytest
import torch

from multigrain.config import ModelSection
from multigrain.errors import ConfigError
from multigrain.model.build import build_model
from tests.model.decoder import tiny_decoder

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish"]
Pooling = Literal["anchor", "mean", "weighted"]


def build(bidirectional: bool | int, pooling: Pooling = "mean", side: Literal["left", "right"] = "right") -> Any:
    base = tiny_decoder(template="both", padding_side=side, pad=True)
    return build_model(ModelSection(base=str(base), bidirectional=bidirectional, pooling=pooling, max_tokens=16))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["anchor", "mean"])
def test_all_layers_by_number_are_all_layers(pooling: Pooling, side: Literal["left", "right"]) -> None:
    by_number, whole = build(3, pooling, side).encode(TEXTS), build(True, pooling, side).encode(TEXTS)
    np.testing.assert_allclose(by_number, whole, atol=1e-6)
    assert np.abs(by_number - build(False, pooling, side).encode(TEXTS)).max() > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_layers_below_look_back_only(side: Literal["left", "right"]) -> None:
    model = build(1, side=side)
    tokens = torch.tensor([[5, 6, 7], [5, 6, 8]])
    states = model[0].model(input_ids=tokens, output_hidden_states=True).hidden_states
    same = [torch.equal(*layer[:, 0]) for layer in states]  # the first token's states, for two last tokens
    assert same == [True, True, True, False]  # embeddings, first, second and third layer


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["anchor", "mean"])
def test_padding_is_not_seen(pooling: Pooling, side: Literal["left", "right"]) -> None:
    model = build(2, pooling, side)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-6)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"model.bidirectional: found 4 layers to see ahead; a LlamaModel has 3"):
        build(4)
