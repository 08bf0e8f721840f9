"""The pooling by hand, and what never changes a vector."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

from multigrain.config import ModelSection
from multigrain.model.build import build_model
from multigrain.model.pooling import AnchorPooling
from tests.conftest import WORDS

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", ""]


@pytest.fixture(scope="module")
def model(tiny_encoder: Path) -> SentenceTransformer:
    return build_model(ModelSection(base=str(tiny_encoder), pooling="anchor", max_tokens=32))


def features(scores: list[list[float]], mask: list[list[int]]) -> dict[str, Any]:
    """Token embeddings such that an embedding is the list of its weights."""
    length = len(mask[0])
    hidden = torch.eye(length).expand(len(mask), length, length)
    return {"token_embeddings": hidden, "attention_mask": torch.tensor(mask), "anchor_scores": torch.tensor(scores)}


def weights(pooling: AnchorPooling, given: dict[str, Any]) -> list[list[float]]:
    embedding: Tensor = pooling(given)["sentence_embedding"]
    torch.testing.assert_close(embedding, pooling.weights(given))
    return embedding.tolist()


def test_weights_by_hand() -> None:
    left_padded = features([[0, 4, 1, 3], [6, 0, 1, 1], [0, 0, 0, 5]], [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    assert weights(AnchorPooling(4), left_padded) == [[0, 0.5, 0.125, 0.375], [0.75, 0, 0.125, 0.125], [0, 0, 0, 1]]
    # The first token is the first that is no padding, and stays if it is alone.
    without_first = AnchorPooling(4, exclude_first=True)
    assert weights(without_first, left_padded) == [[0, 0, 0.25, 0.75], [0, 0, 0.5, 0.5], [0, 0, 0, 1]]
    assert left_padded["attention_mask"].sum() == 8


def test_detached_weights_pass_no_gradient() -> None:
    for detach in (False, True):
        given = features([[1.0, 2.0]], [[1, 1]])
        given["anchor_scores"].requires_grad_()
        given["token_embeddings"] = given["token_embeddings"].clone().requires_grad_()
        AnchorPooling(2, detach=detach)(given)["sentence_embedding"][0, 0].backward()
        assert given["token_embeddings"].grad is not None
        assert (given["anchor_scores"].grad is None) is detach


def test_vectors_are_the_weighted_mean_of_the_token_embeddings(model: SentenceTransformer) -> None:
    features = model[0](model.preprocess(TEXTS))
    scores, hidden = features["anchor_scores"], features["token_embeddings"]
    assert (scores[features["attention_mask"] == 0] == 0).all()
    weights = scores / scores.sum(1, keepdim=True)
    pooled = torch.stack([(weights[row, :, None] * hidden[row]).sum(0) for row in range(len(TEXTS))])
    expected = torch.nn.functional.normalize(pooled).detach().numpy()
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)


@settings(max_examples=20)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=6), data=st.data()
)
def test_padding_and_the_order_of_a_batch_never_change_a_vector(
    model: SentenceTransformer, texts: list[str], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(model.encode([texts[i] for i in order], batch_size=4), alone[order], atol=1e-6)


def test_gradcache_gives_the_same_gradients(model: SentenceTransformer) -> None:
    """It embeds the same features twice, so nothing in them may be changed in place."""
    columns = [model.preprocess(texts) for texts in (TEXTS[:3], TEXTS[1:])]
    found = []
    for loss in (MultipleNegativesRankingLoss(model), CachedMultipleNegativesRankingLoss(model, mini_batch_size=1)):
        model.zero_grad()
        loss([dict(column) for column in columns], torch.empty(0)).backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for plain, cached in zip(*found, strict=True):
        torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-6)


def test_attention_that_was_changed_afterwards(tiny_encoder: Path) -> None:
    model = build_model(ModelSection(base=str(tiny_encoder), pooling="anchor", max_tokens=32))
    vectors = model.encode(TEXTS)
    backbone: Any = model.transformers_model
    backbone.set_attn_implementation("eager")  # gives all layers' weights
    np.testing.assert_allclose(model.encode(TEXTS), vectors, atol=1e-6)
    backbone.set_attn_implementation("sdpa")  # gives none
    with pytest.raises(ValueError, match='the attention was set to "sdpa", which gives no anchor scores'):
        model.encode(TEXTS)


def test_input_that_has_no_tokens_or_no_padding(model: SentenceTransformer) -> None:
    none = {"input_ids": torch.zeros(2, 0, dtype=torch.long), "attention_mask": torch.zeros(2, 0, dtype=torch.long)}
    padding = {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": torch.zeros(2, 3, dtype=torch.long)}
    for nothing in (none, padding):
        assert model(nothing)["sentence_embedding"].tolist() == [[0.0] * 32] * 2
    flattened = {"input_ids": torch.ones(1, 5, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 2, 5])}
    with pytest.raises(ValueError, match="anchor pooling found flattened input; wanted padded input"):
        model(flattened)


def test_texts_longer_than_the_model_are_cut(model: SentenceTransformer) -> None:
    long = "cat " * 5000
    np.testing.assert_allclose(model.encode(long), model.encode("cat " * 30), atol=1e-6)
    assert np.isfinite(model.encode("c" * 100_000)).all()


def test_uniform_scores_are_mean_pooling(model: SentenceTransformer) -> None:
    hidden, mask = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    features = {"token_embeddings": hidden, "attention_mask": mask, "anchor_scores": mask.float() * 0.3}
    mean = torch.stack([hidden[0].mean(0), hidden[1, :3].mean(0)])
    torch.testing.assert_close(AnchorPooling(32)(features)["sentence_embedding"], mean)
    with pytest.raises(ValueError, match="must be an AnchorTransformer"):
        AnchorPooling(32)({"token_embeddings": hidden, "attention_mask": mask})
    with pytest.raises(ValueError, match="needs an AnchorTransformer before it, found Normalize"):
        SentenceTransformer(modules=[model[2], AnchorPooling(32)])


def test_pooling_stays_exact_under_autocast() -> None:
    hidden, mask = torch.randn(2, 50, 32), torch.ones(2, 50, dtype=torch.long)
    features = {"token_embeddings": hidden, "attention_mask": mask, "anchor_scores": torch.rand(2, 50)}
    expected = AnchorPooling(32)(dict(features))["sentence_embedding"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(AnchorPooling(32)(dict(features))["sentence_embedding"], expected)


def test_a_prompt_can_be_left_out_of_the_pooling(model: SentenceTransformer) -> None:
    hidden, mask = torch.randn(1, 4, 32), torch.ones(1, 4, dtype=torch.long)
    features = {
        "token_embeddings": hidden,
        "attention_mask": mask,
        "anchor_scores": torch.ones(1, 4),
        "prompt_length": 2,
    }
    pooled = AnchorPooling(32, include_prompt=False)(features)["sentence_embedding"]
    torch.testing.assert_close(pooled, hidden[:, 2:].mean(1))
    assert mask.sum() == 4
    model.set_pooling_include_prompt(False)
    without, with_prompt = model.encode(TEXTS[:1], prompt="the old "), model.encode(["the old the cat sleeps"])
    assert not np.allclose(without, with_prompt)
