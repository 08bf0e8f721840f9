"""States of frozen layers: whatever is trained on them must be as if they were computed at each step."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from multigrain.config import LoraSection, ModelSection
from multigrain.errors import RunError
from multigrain.model.build import build_model
from multigrain.model.pooling import AnchorTransformer
from multigrain.training import frozen_cache
from multigrain.training.frozen_cache import FrozenStates
from multigrain.training.frozen_layers import frozen_depth, layers_of
from tests.model import architectures
from tests.model.decoder import tiny_decoder, tokenizer

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", "bird sings near the river"]
TOP = LoraSection(rank=4, dropout=0, top_layers=1)


def decoder(side: str = "right", lora: LoraSection | None = TOP, **settings: Any) -> SentenceTransformer:
    """The two lower ones of its three layers are frozen; its adapter is far from the identity."""
    base = tiny_decoder(padding_side=side, pad=True)
    model = build_model(
        ModelSection(
            base=str(base), lora=lora, max_tokens=16, **{"pooling": "anchor", "bidirectional": True, **settings}
        )
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return model.train()


def encoder(base: Path) -> SentenceTransformer:
    """A BERT of which the upper of two layers is trained, without dropout."""
    model = without_dropout(build_model(ModelSection(base=str(base), pooling="anchor", max_tokens=16)))
    model.requires_grad_(False)
    layers(model)[1].requires_grad_(True)
    return model.train()


def without_dropout(model: SentenceTransformer) -> SentenceTransformer:
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" or "drop" in name):
                setattr(module, name, 0.0)
    return model


def layers(model: SentenceTransformer) -> list[Any]:
    return layers_of(model)


def rows(features: dict[str, Any]) -> list[list[int]]:
    pairs = zip(features["input_ids"], features["attention_mask"].bool(), strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def stored(model: SentenceTransformer, folder: Path, texts: list[str] = TEXTS, **options: Any) -> FrozenStates:
    FrozenStates.compute(model, rows(model.preprocess(texts)), folder, **options)
    return FrozenStates(model, folder)


def embeddings(model: SentenceTransformer, features: dict[str, Any]) -> Tensor:
    vectors: Tensor = model(dict(features))["sentence_embedding"]
    return vectors


def vectors_and_gradients(model: SentenceTransformer, features: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    vectors = embeddings(model, features)
    (vectors @ torch.linspace(-1, 1, vectors.shape[1])).pow(2).sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return vectors.detach(), gradients


def assert_same_training(model: SentenceTransformer, states: FrozenStates, features: dict[str, Any]) -> None:
    plain, plain_gradients = vectors_and_gradients(model, features)
    with states.in_use(features):
        vectors, gradients = vectors_and_gradients(model, features)
    torch.testing.assert_close(vectors, plain, rtol=0, atol=1e-5)
    assert gradients.keys() == plain_gradients.keys() == {n for n, w in model.named_parameters() if w.requires_grad}
    norms = {name: float(gradient.norm()) for name, gradient in plain_gradients.items()}
    rounding = 1e-6 * max(norms.values())  # the gradient of a key's bias is 0 but for that
    for name, gradient in gradients.items():
        assert (gradient - plain_gradients[name]).norm() <= 1e-4 * norms[name] + rounding, name


def without_computing(states: FrozenStates) -> None:
    def fail(*given: Any) -> None:
        raise AssertionError("a frozen layer was computed")

    for layer in states._layers:
        next(iter(layer.children())).register_forward_pre_hook(fail)


# The same training


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_decoder_is_trained_as_without_the_states(tmp_path: Path, side: str, bidirectional: bool) -> None:
    model = decoder(side, bidirectional=bidirectional)
    features = model.preprocess(TEXTS)
    assert features["attention_mask"][2, -1 if side == "left" else 0] == 1 and features["attention_mask"][2].min() == 0
    assert_same_training(model, stored(model, tmp_path), features)


def test_an_encoder_is_trained_as_without_the_states(tiny_encoder: Path, tmp_path: Path) -> None:
    model = encoder(tiny_encoder)
    assert_same_training(model, stored(model, tmp_path), model.preprocess(TEXTS))


def other(name: str, folder: Path) -> SentenceTransformer:
    tokenizer(pad=True).save_pretrained(folder)
    architectures.build(name).save_pretrained(folder)
    model = SentenceTransformer(modules=[AnchorTransformer(str(folder)), Pooling(32)], device="cpu")
    return without_dropout(model).requires_grad_(False)


FEATURES = dict(zip(("input_ids", "attention_mask"), architectures.batch("right"), strict=True))


@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma3", "gpt2", "gpt-neox", "modernbert", "roberta"])
def test_other_architectures_are_trained_as_without_the_states(name: str, tmp_path: Path) -> None:
    model = other(name, tmp_path / "model")
    layers(model)[2].requires_grad_(True)
    assert frozen_depth(model) == 2
    FrozenStates.compute(model, rows(FEATURES), tmp_path)
    assert_same_training(model, FrozenStates(model, tmp_path), FEATURES)


def test_what_is_frozen_is_not_computed_and_what_was_trained_is(tmp_path: Path) -> None:
    model = decoder()
    features, states = model.preprocess(TEXTS), stored(model, tmp_path)
    without_computing(states)
    with states.in_use(features):
        before = embeddings(model, features)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.requires_grad and "lora_B" in name:
                    weight.neg_()
        assert (embeddings(model, features) - before).abs().max() > 1e-3


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    model = decoder()
    features, states = model.preprocess(TEXTS), stored(model, tmp_path)
    with states.in_use(features):
        expected = vectors_and_gradients(model, features)[1]
    model.transformers_model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[union-attr]
    without_computing(states)
    with states.in_use(features):
        loss = (vectors := embeddings(model, features)) @ torch.linspace(-1, 1, vectors.shape[1])
    model.zero_grad()
    loss.pow(2).sum().backward()  # after the block: upper layers are computed a second time here
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, expected[name])


def test_half_precision_starts_from_exact_states(tmp_path: Path) -> None:
    model = decoder()
    features, states = model.preprocess(TEXTS), stored(model, tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        plain = embeddings(model, features)
        with states.in_use(features):
            torch.testing.assert_close(embeddings(model, features), plain, rtol=0, atol=0.02)


# The model afterwards


def test_the_model_is_as_before_afterwards_also_after_an_exception(tmp_path: Path) -> None:
    model = decoder()
    features, states = model.preprocess(TEXTS), stored(model, tmp_path)
    names, modes = list(model.state_dict()), [module.training for module in model.modules()]
    plain = embeddings(model, features)
    mine = layers(model)[1].forward
    layers(model)[1].forward = mine  # as accelerate hangs itself in

    def interrupted() -> None:
        with states.in_use(features):
            assert list(model.state_dict()) == names
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "forward" not in vars(layers(model)[0]) and vars(layers(model)[1])["forward"] is mine
    assert torch.equal(embeddings(model, features), plain)
    assert [module.training for module in model.modules()] == modes
    assert not layers(model)[2]._forward_pre_hooks


# What is on disk


def test_the_bytes_depend_on_the_texts_alone(tmp_path: Path) -> None:
    model = decoder()
    given = rows(model.preprocess(TEXTS)) + [[4 + i % 7, 4 + i // 7] for i in range(49)]
    FrozenStates.compute(model, given, tmp_path / "a")
    FrozenStates.compute(model, [*reversed(given), given[0], []], tmp_path / "b")
    a, b = ((tmp_path / folder / frozen_cache.STATES).read_bytes() for folder in "ab")
    size = 4 * 32 * sum(map(len, given))
    assert a == b and len(a) == 128 + size
    assert FrozenStates.fits(model, given, size) and not FrozenStates.fits(model, given, size - 1)


def test_texts_of_one_length_are_computed_together_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_cache, "BATCH_TOKENS", 4)
    found = list(frozen_cache._batches([(1,), (2,), (1, 1), (1, 2), (1, 3), (1,) * 9]))
    assert found == [[(1,), (2,)], [(1, 1), (1, 2)], [(1, 3)], [(1,) * 9]]


@pytest.mark.parametrize("place", ["second batch", "index"])
def test_what_was_cut_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    model = decoder()
    whole = stored(model, tmp_path / "whole")._states
    given = rows(model.preprocess(TEXTS))
    stored(model, tmp_path, ["the dog sleeps", *TEXTS[1:]])  # an older one, of the same size

    def cut(*args: Any) -> Any:
        raise KeyboardInterrupt

    computed = frozen_cache._computed
    with monkeypatch.context() as patch:
        if place == "index":
            patch.setattr(os, "fsync", cut)
        else:
            patch.setattr(frozen_cache, "_computed", lambda *args: (computed if len(args[2][0]) < 4 else cut)(*args))
        with pytest.raises(KeyboardInterrupt):
            FrozenStates.compute(model, given, tmp_path)
    with pytest.raises(RunError, match="no complete states"):
        FrozenStates(model, tmp_path)
    FrozenStates.compute(model, given, tmp_path)
    assert np.array_equal(FrozenStates(model, tmp_path)._states, whole)


def test_what_is_there_is_not_computed_again_unless_the_model_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, causal = decoder(), decoder(bidirectional=False)
    given = rows(model.preprocess(TEXTS))
    FrozenStates.compute(model, given, tmp_path)
    written: list[Any] = []
    monkeypatch.setattr(frozen_cache, "_write", lambda *args: written.append(args))
    FrozenStates.compute(model, given, tmp_path)
    assert not written
    for changed, texts in [
        (causal, given),  # the same weights
        (decoder(lora=TOP.model_copy(update={"top_layers": 2})), given),
        (model, given[1:]),
    ]:
        FrozenStates.compute(changed, texts, tmp_path)
        assert written.pop()
    with pytest.raises(RunError, match="another training"):
        FrozenStates(causal, tmp_path)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="disk is full"):
        stored(decoder(), tmp_path)


def test_a_text_that_is_not_stored_is_an_error(tmp_path: Path) -> None:
    model = decoder()
    states = stored(model, tmp_path)
    with pytest.raises(RunError, match=r"no states of the text with the token ids \[.*another training"):
        states.in_use(model.preprocess(["the cat sleeps", "the cat runs"]))


def test_a_text_without_tokens_is_padding_beside_others(tmp_path: Path) -> None:
    model = decoder()
    features, states = model.preprocess(TEXTS), stored(model, tmp_path)
    features["attention_mask"][2] = 0
    with states.in_use(features):
        assert embeddings(model, features).isfinite().all()


# How much is frozen


def test_the_depth_is_that_of_the_lowest_layer_that_is_trained() -> None:
    model = decoder()
    assert frozen_depth(model) == 2
    assert not any(weight.grad is not None for weight in model.parameters())
    layers(model)[1].mlp.up_proj.weight.requires_grad_(True)
    assert frozen_depth(model) == 1


def test_with_no_layer_trained_the_last_is_computed_all_the_same() -> None:
    assert frozen_depth(decoder(pooling="mean").requires_grad_(False)) == 2


def test_what_comes_after_the_layers_may_be_trained_but_nothing_before() -> None:
    model = decoder()
    model.transformers_model.norm.requires_grad_(True)  # type: ignore[union-attr]
    assert frozen_depth(model) == 2
    model.transformers_model.embed_tokens.requires_grad_(True)  # type: ignore[union-attr]
    with torch.no_grad():
        assert frozen_depth(model) == 0


def test_a_layer_that_the_pooling_looks_at_is_not_left_out() -> None:
    assert frozen_depth(decoder(anchor={"layers": [1, -1]})) == 1
    assert frozen_depth(decoder(anchor={"layers": [0, -1]})) == 0


def test_dropout_is_no_gain_even_before_training_puts_it_in_force(tiny_encoder: Path) -> None:
    model = encoder(tiny_encoder)
    assert frozen_depth(model) == 1
    model.transformers_model.embeddings.dropout.p = 0.1  # type: ignore[union-attr]
    assert frozen_depth(model.eval()) == 0
    llama = decoder(lora=TOP.model_copy(update={"dropout": 0.05}))
    assert frozen_depth(llama) == 2
    layers(llama)[1].self_attn.attention_dropout = 0.1  # a rate without a module
    assert frozen_depth(llama) == 1


def test_with_all_layers_trained_nothing_is_frozen(tmp_path: Path) -> None:
    model = decoder(lora=LoraSection(rank=4))
    assert frozen_depth(model) == 0
    with pytest.raises(RunError, match="no frozen layers"):
        stored(model, tmp_path)


@pytest.mark.parametrize("name", ["t5", "mpnet", "deberta-v2", "albert"])
def test_layers_that_share_more_than_a_tensor_are_not_left_out(name: str, tmp_path: Path) -> None:
    model = other(name, tmp_path)
    if found := layers(model):
        found[2].requires_grad_(True)
    assert frozen_depth(model) == 0


def test_what_an_upper_layer_takes_from_a_lower_one_by_another_way_is_seen() -> None:
    model = decoder()
    kept: dict[str, Tensor] = {}
    layers(model)[1].self_attn.register_forward_hook(lambda _layer, _given, output: kept.update(output=output[0]))
    layers(model)[2].mlp.register_forward_hook(lambda _layer, _given, output: output + kept.pop("output", 0))
    assert frozen_depth(model) == 0
