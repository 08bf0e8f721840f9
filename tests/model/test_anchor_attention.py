"""Scores and vectors against eager attention weights in float64."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
)

from multigrain.model import anchor_attention
from multigrain.model.anchor_attention import AnchorSettings, AttentionRule, Form, anchor_scores, mark_anchor_layers

SMALL: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
DECODER: dict[str, Any] = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "attn_implementation": "eager"}
ENCODER: dict[str, Any] = {**SMALL, "intermediate_size": 48, "attn_implementation": "eager"}


def build(name: str) -> Any:
    torch.manual_seed(0)
    config: Any
    if name == "bert":
        return BertModel(BertConfig(**ENCODER))
    if name == "roberta":
        return RobertaModel(RobertaConfig(**ENCODER, pad_token_id=0))
    if name == "distilbert":
        return DistilBertModel(
            DistilBertConfig(vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=48, attn_implementation="eager")
        )
    if name == "modernbert":
        return ModernBertModel(ModernBertConfig(**ENCODER, pad_token_id=0))
    config = LlamaConfig(**DECODER) if name.startswith("llama") else Qwen3Config(**DECODER, head_dim=8)
    model = LlamaModel(config) if name.startswith("llama") else Qwen3Model(config)
    if name.endswith("-full"):
        model.config.is_causal = False
    return model


def batch(padding: str) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    if padding == "right":
        mask[1, 5:] = mask[2, 3:] = 0
    if padding == "left":
        mask[1, :4] = mask[2, :6] = 0
    return tokens, mask


def reference(weights: Tensor, mask: Tensor, form: str) -> Tensor:
    """The definition, token by token and head by head, on eager attention weights."""
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    for row in range(len(mask)):
        valid = [int(i) for i in mask[row].nonzero()]
        for j in valid:
            for head in weights[row]:
                for i in valid:
                    share = head[i, j]
                    scores[row, j] += torch.log1p(len(valid) * share) if form == "log" else share
    return scores


@pytest.mark.parametrize("form", ["log", "linear"])
@pytest.mark.parametrize("padding", ["no", "right", "left"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "llama", "llama-full", "qwen3-full"])
def test_scores_equal_those_of_eager_attention(name: str, padding: str, form: Form) -> None:
    model = build(name).double().eval()
    tokens, mask = batch(padding)
    rows = slice(0, 1) if name == "llama" and padding == "left" else slice(None)  # transformers' eager gives NaN there
    with torch.no_grad():
        eager = model(input_ids=tokens, attention_mask=mask, output_attentions=True)
        mark_anchor_layers(model, AnchorSettings(form))
        ours = model(input_ids=tokens, attention_mask=mask, output_attentions=True)
    expected = reference(eager.attentions[-1], mask, form)
    assert len(ours.attentions) == 1
    # The eager attention of some architectures takes its softmax in float32, whatever the model's type.
    close = 1e-9 if name in ("bert", "roberta", "distilbert") else 1e-6
    torch.testing.assert_close(ours.attentions[0].double()[rows], expected[rows], rtol=close, atol=close)
    valid = mask[rows].bool()
    states = ours.last_hidden_state[rows][valid], eager.last_hidden_state[rows][valid]
    torch.testing.assert_close(*states, rtol=close, atol=close)


def test_left_padding_under_a_causal_mask_equals_the_row_alone() -> None:
    """Where the eager attention cannot be asked: relative positions make a padded row equal the row by itself."""
    model = build("llama").double().eval()
    mark_anchor_layers(model, AnchorSettings())
    tokens, mask = batch("left")
    with torch.no_grad():
        padded = model(input_ids=tokens, attention_mask=mask, output_attentions=True).attentions[0]
        alone = model(input_ids=tokens[2:, 6:], output_attentions=True).attentions[0]
    torch.testing.assert_close(padded[2:, 6:], alone)


def test_chunks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(2, 4, 11, 8), torch.randn(2, 2, 11, 8)
    whole = anchor_scores(query, key, AttentionRule(0.3, causal=True))
    monkeypatch.setattr(anchor_attention, "CPU_TILE_BYTES", 1)
    torch.testing.assert_close(anchor_scores(query, key, AttentionRule(0.3, causal=True)), whole)


def test_uniform_attention_gives_uniform_scores_by_hand() -> None:
    # With q = 0 every row attends 1/n to each of n = 4 tokens: log(1 + 4/4), times 2 heads times 4 queries.
    scores = anchor_scores(torch.zeros(1, 2, 4, 3), torch.randn(1, 2, 4, 3), AttentionRule(1.0))
    torch.testing.assert_close(scores, torch.full((1, 4), 8 * torch.log(torch.tensor(2.0)).item()))


@pytest.mark.parametrize("additive", [False, True])
def test_gradients_are_numbers_where_a_row_sees_nothing(additive: bool) -> None:
    """Left padding under a causal mask has rows without any key; their softmax is 0/0."""
    query = torch.randn(1, 2, 4, 3, requires_grad=True)
    key = torch.randn(1, 2, 4, 3, requires_grad=True)
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    seen[:, :2] = False
    mask = seen[None, None]
    if additive:
        mask = torch.zeros(1, 1, 4, 4).masked_fill(~mask, torch.finfo(torch.float32).min)
    scores = anchor_scores(query, key, AttentionRule(0.5, mask))
    (scores * torch.arange(4.0)).sum().backward()
    assert scores[0, :2].abs().sum() == 0
    assert query.grad is not None
    assert key.grad is not None
    assert torch.isfinite(query.grad).all()
    assert query.grad[:, :, 3].abs().sum() > 0


def test_gradients_equal_those_of_the_definition() -> None:
    query = torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    key = torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.arange(5, dtype=torch.float64)
    (anchor_scores(query, key, AttentionRule(0.5)) * target).sum().backward()
    ours = query.grad
    query.grad = None
    weights = (query @ key.transpose(-1, -2) * 0.5).softmax(-1)
    (torch.log1p(5 * weights).sum((1, 2)) * target).sum().backward()
    assert ours is not None
    assert query.grad is not None
    torch.testing.assert_close(ours, query.grad)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.sampled_from(["log", "linear"]))
def test_padding_changes_nothing(length: int, padding: int, form: Form) -> None:
    query, key = torch.randn(1, 2, length, 4), torch.randn(1, 2, length, 4)
    alone = anchor_scores(query, key, AttentionRule(0.5), AnchorSettings(form))
    query, key = (torch.cat([x, torch.randn(1, 2, padding, 4)], dim=2) for x in (query, key))
    seen = torch.zeros(length + padding, dtype=torch.bool)
    seen[:length] = True
    mask = seen.expand(length + padding, -1)[None, None]
    torch.testing.assert_close(
        anchor_scores(query, key, AttentionRule(0.5, mask), AnchorSettings(form))[:, :length], alone
    )


def test_a_model_off_the_interface_is_refused() -> None:
    model = DebertaV2Model(DebertaV2Config(**{k: v for k, v in ENCODER.items() if k != "attn_implementation"}))
    with pytest.raises(ValueError, match="does not go through transformers' attention interface"):
        mark_anchor_layers(model, AnchorSettings())


def test_shipped_files_import_nothing_of_ours() -> None:
    from multigrain.model.build import SHIPPED

    for path in SHIPPED:
        assert not re.search(r"^\s*(from|import) multigrain", path.read_text(), re.MULTILINE)
