"""Scores, embeddings and gradients against eager attention weights in float64."""

import logging
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor
from transformers import BartConfig, BartModel, FNetConfig, FNetModel, MambaConfig, MambaModel

from multigrain.model import anchor_attention, attention_tiles
from multigrain.model.anchor_attention import anchor_scores_of, mark_anchor_layers
from multigrain.model.anchor_scores import AnchorSettings, Form, anchor_scores
from multigrain.model.attention_tiles import AttentionRule
from tests.model.architectures import KINDS, SIZE, batch, build

PAPER = AnchorSettings()


def ours(model: Any, tokens: Tensor, mask: Tensor, settings: AnchorSettings = PAPER) -> tuple[Tensor, Tensor]:
    """Scores (B, n) and embeddings (B, D)."""
    places = mark_anchor_layers(model, settings)
    output = model(input_ids=tokens, attention_mask=mask, output_attentions=True)
    scores = anchor_scores_of(output.attentions, places, mask, settings)
    return scores, pooled(scores, output.last_hidden_state)


def eager(model: Any, tokens: Tensor, mask: Tensor, settings: AnchorSettings = PAPER) -> Any:
    """The same in float64 from the weights that transformers' own eager attention gives."""
    model.set_attn_implementation("eager")
    output = model(input_ids=tokens, attention_mask=mask, output_attentions=True)
    layers = [definition(output.attentions[layer].double(), mask, settings) for layer in settings.layers]
    scores = torch.stack(layers).mean(0)
    return scores, pooled(scores, output.last_hidden_state)


def definition(weights: Tensor, mask: Tensor, settings: AnchorSettings) -> Tensor:
    """Token by token and head by head."""
    scores = []
    for row in range(len(mask)):
        valid = [int(i) for i in mask[row].nonzero()]
        share = weights[row][:, valid][:, :, valid]  # (H, i, j)
        received = torch.log(1 + len(valid) * share) if settings.form == "log" else share
        column = torch.zeros(mask.shape[1], dtype=torch.float64)
        total = received.sum((0, 1))
        column[valid] = total / (share[0] > 0).sum(0) if settings.visibility_correction else total
        scores.append(column)
    return torch.stack(scores)


def pooled(scores: Tensor, hidden: Tensor) -> Tensor:
    return torch.einsum("bn,bnd->bd", scores / scores.sum(1, keepdim=True), hidden.to(scores.dtype))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("padding", ["no", "right", "left"])
@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_scores_and_embeddings_equal_those_of_eager_attention(name: str, attention: str, padding: str) -> None:
    tokens, mask = batch(padding)
    with torch.no_grad():
        expected = eager(build(name, attention).double(), tokens, mask)
        found = ours(build(name, attention), tokens, mask)
    for row in range(len(tokens)):
        wanted_scores, wanted = (tensor[row] for tensor in expected)
        if not torch.isfinite(wanted).all():
            # transformers' eager attention knows no answer where a padding token sees nothing. With relative
            # positions, as these models have them, the text by itself is the same.
            only = mask[row].bool()
            with torch.no_grad():
                alone = eager(build(name, attention).double(), tokens[row : row + 1, only], mask[row : row + 1, only])
            wanted_scores = torch.zeros(mask.shape[1], dtype=torch.float64)
            wanted_scores[only], wanted = alone[0][0], alone[1][0]
        assert error(found[0][row], wanted_scores) <= 1e-6
        assert error(found[1][row], wanted) <= 1e-6


SETTINGS = [
    AnchorSettings("linear"),
    AnchorSettings(layers=(-1, 0)),
    AnchorSettings(visibility_correction=True),
    AnchorSettings("linear", (1,), visibility_correction=True),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("name", "attention"), [("bert", "full"), ("llama", "causal"), ("albert", "full"), ("mpnet", "full")]
)
def test_settings_mean_what_they_say(name: str, attention: str, settings: AnchorSettings) -> None:
    tokens, mask = batch("right")
    with torch.no_grad():
        expected = eager(build(name, attention).double(), tokens, mask, settings)
        found = ours(build(name, attention), tokens, mask, settings)
    assert error(found[0], expected[0]) <= 1e-6
    assert error(found[1], expected[1]) <= 1e-6


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_gradients_equal_those_through_eager_attention(name: str, attention: str) -> None:
    tokens, mask = batch(
        "no" if name in ("mistral", "gemma2", "gemma3") else "right"
    )  # their eager attention gives NaN
    expected = gradients(build(name, attention).double(), eager, tokens, mask)
    found = gradients(build(name, attention), ours, tokens, mask)
    assert found.keys() == expected.keys()
    scale = max(gradient.norm() for gradient in expected.values())
    for parameter, gradient in found.items():
        assert (gradient.double() - expected[parameter]).norm() <= 1e-5 * max(
            expected[parameter].norm(), 1e-2 * scale
        ), parameter


def gradients(model: Any, embed: Any, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    embedding = embed(model, tokens, mask)[1]
    (embedding * torch.linspace(-1, 1, embedding.shape[1])).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_of_an_adapter_equal_those_through_eager_attention() -> None:
    tokens, mask = batch("right")

    def adapted() -> Any:
        model = build("llama")
        model.add_adapter(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    expected = gradients(adapted().double(), eager, tokens, mask)
    found = gradients(adapted(), ours, tokens, mask)
    assert found.keys() == expected.keys()
    assert all("lora" in name for name in found)
    for name, gradient in found.items():
        assert error(gradient, expected[name]) <= 1e-5, name


def test_checkpointing_autocast_and_compilation_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = batch("right")
    model = build("llama").train()
    plain = gradients(model, ours, tokens, mask)

    def differences(found: dict[str, Tensor]) -> float:
        return max(error(found[name], plain[name].double()) for name in plain)

    model.activation_checkpointing_enable()
    assert differences(gradients(model, ours, tokens, mask)) <= 1e-6
    model.activation_checkpointing_disable()
    monkeypatch.setattr(attention_tiles, "CPU_TILE_BYTES", 300)
    assert differences(gradients(model, ours, tokens, mask)) <= 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert differences(gradients(model, ours, tokens, mask)) <= 3e-2
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def embed(_model: Any, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = compiled(input_ids=tokens, attention_mask=mask, output_attentions=True)
        return output.attentions[0], pooled(output.attentions[0], output.last_hidden_state)

    assert differences(gradients(model, embed, tokens, mask)) <= 1e-6


RULES = [
    AttentionRule(0.7),
    AttentionRule(0.7, causal=True),
    AttentionRule(0.7, causal=True, softcap=1.5),
    AttentionRule(0.7, torch.arange(5).lt(4).expand(2, 1, 5, 5)),
    AttentionRule(0.7, torch.tril(torch.ones(5, 5, dtype=torch.bool))[None, None] & torch.arange(5).gt(1), softcap=1.5),
    AttentionRule(0.7, torch.zeros(1, 1, 5, 5).masked_fill(torch.arange(5).lt(2), torch.finfo(torch.float32).min)),
]


@pytest.mark.parametrize("tile_bytes", [1, 200, 10**6])
@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
@pytest.mark.parametrize("form", ["log", "linear"])
def test_the_closed_form_gradient_is_the_derivative(
    form: Form, rule: AttentionRule, tile_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Query, key and bias, by finite differences; where rows see nothing at all, too."""
    monkeypatch.setattr(attention_tiles, "CPU_TILE_BYTES", tile_bytes)
    draw = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, dtype=torch.float64, generator=draw).requires_grad_()
        for shape in ((2, 4, 5, 3), (2, 2, 5, 3), (1, 4, 5, 5))
    ]

    def scores(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        return anchor_scores(query, key, rule, AnchorSettings(form), bias)

    assert torch.autograd.gradcheck(scores, inputs)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    in_one_piece = scores(*inputs)
    monkeypatch.undo()
    torch.testing.assert_close(scores(*inputs), in_one_piece)


def test_uniform_attention_gives_uniform_scores_by_hand() -> None:
    # With q = 0 every row attends 1/n to each of n = 4 tokens: log(1 + 4/4), times 2 heads times 4 queries.
    scores = anchor_scores(torch.zeros(1, 2, 4, 3), torch.randn(1, 2, 4, 3), AttentionRule(1.0))
    torch.testing.assert_close(scores, torch.full((1, 4), 8 * torch.log(torch.tensor(2.0)).item()))


def test_half_precision_is_accumulated_in_float32() -> None:
    query, key = (torch.randn(2, 4, 300, 16).bfloat16() for _ in range(2))
    scores = anchor_scores(query, key, AttentionRule(0.5, causal=True))
    assert scores.dtype == torch.float32
    expected = anchor_scores(query.double(), key.double(), AttentionRule(0.5, causal=True))
    assert error(scores, expected) <= 1e-6


@pytest.mark.parametrize("name", ["bert", "modernbert", "mpnet", "llama", "qwen3"])
def test_a_model_in_half_precision(name: str) -> None:
    """Its hidden states are rounded, so no pooling is exact: the embedding is as good as the mean."""
    tokens, mask = batch("no")
    with torch.no_grad():
        exact = build(name).bfloat16().double()
        half = build(name).bfloat16()
        expected, found = eager(exact, tokens, mask), ours(half, tokens, mask)
        mean, exact_mean = (m(input_ids=tokens, attention_mask=mask)[0].double().mean(1) for m in (half, exact))
    assert error(found[0], expected[0]) <= 3e-3
    assert error(found[1], expected[1]) <= 1.1 * error(mean, exact_mean)


@pytest.mark.parametrize("unseen", [-torch.inf, torch.finfo(torch.float32).min, -1e9, -1e4])
def test_additive_masks_of_all_kinds(unseen: float) -> None:
    query, key, seen = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4), torch.arange(6).lt(4)
    settings = AnchorSettings(visibility_correction=True)
    boolean = seen.expand(6, -1)[None, None] & seen[None, None, :, None]
    additive = torch.zeros(1, 1, 6, 6).masked_fill(~boolean, unseen)
    found, expected = (anchor_scores(query, key, AttentionRule(0.5, mask), settings) for mask in (additive, boolean))
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_exact_within_autocast_too() -> None:
    query, key = (torch.randn(1, 2, 9, 4, requires_grad=True) for _ in range(2))
    found = []
    for is_cast in (False, True):
        query.grad = key.grad = None
        scores = anchor_scores(query, key, AttentionRule(0.5))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_cast):
            (scores * torch.arange(9)).sum().backward()
        found.append((query.grad, key.grad))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_looking_at_a_model_leaves_its_modes_alone() -> None:
    model = build("bert").train()
    model.encoder.layer[0].eval()  # frozen, without dropout
    mark_anchor_layers(model, AnchorSettings())
    assert model.training and not model.encoder.layer[0].training and model.encoder.layer[1].training


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(0, 5), st.sampled_from(["log", "linear"]))
def test_padding_changes_nothing(length: int, padding: int, form: Form) -> None:
    query, key = torch.randn(1, 2, length, 4), torch.randn(1, 2, length, 4)
    alone = anchor_scores(query, key, AttentionRule(0.5), AnchorSettings(form))
    query, key = (torch.cat([x, torch.randn(1, 2, padding, 4)], dim=2) for x in (query, key))
    seen = torch.zeros(length + padding, dtype=torch.bool)
    seen[:length] = True
    rule = AttentionRule(0.5, seen.expand(length + padding, -1)[None, None])
    torch.testing.assert_close(anchor_scores(query, key, rule, AnchorSettings(form))[:, :length], alone)


def test_eager_attention_is_used_where_it_must_be_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    anchor_attention._warn_of_eager.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            mark_anchor_layers(build("mpnet"), AnchorSettings())
    assert [record.message for record in caplog.records] == [
        "MPNetModel cannot use SDPA through the attention interface of transformers: using eager attention, which is "
        "slower and takes far more memory"
    ]


def test_models_without_such_attention_are_refused() -> None:
    fnet = FNetModel(FNetConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=48))
    mamba = MambaModel(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2))
    for model in (fnet, mamba):
        with pytest.raises(ValueError, match="Model gives no access to its attention, which anchor pooling needs"):
            mark_anchor_layers(model, AnchorSettings())
    bart = BartModel(BartConfig(**SIZE, d_model=32, encoder_layers=2, decoder_layers=2))
    with pytest.raises(ValueError, match="BartModel does not pass on the results of its attention"):
        mark_anchor_layers(bart, AnchorSettings())
    with pytest.raises(ValueError, match="there is no attention layer 3: BertModel has 3"):
        mark_anchor_layers(build("bert"), AnchorSettings(layers=(3,)))


def test_shipped_files_import_nothing_of_ours() -> None:
    from multigrain.model.embedding_model import SHIPPED

    for path in SHIPPED:
        assert not re.search(r"^\s*(from|import) multigrain", path.read_text(), re.MULTILINE)
