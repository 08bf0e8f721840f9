"""Tiny models with random weights of all kinds of attention."""

from typing import Any

import torch
import transformers
from torch import Tensor

SIZE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL_TOKENS = {**TOKENS, "cls_token_id": 1, "sep_token_id": 2, "mask_token_id": 3}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", SIZE),
    "roberta": ("RobertaModel", {**SIZE, "pad_token_id": 0}),
    "xlm-roberta": ("XLMRobertaModel", {**SIZE, "pad_token_id": 0}),
    "electra": ("ElectraModel", {**SIZE, "embedding_size": 32}),
    "distilbert": ("DistilBertModel", {"vocab_size": 50, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}),
    "modernbert": ("ModernBertModel", {**SIZE, **SMALL_TOKENS}),  # global and local layers
    "nomic-bert": ("NomicBertModel", SIZE),
    "eurobert": ("EuroBertModel", {**GROUPED, **SMALL_TOKENS}),
    "albert": ("AlbertModel", {**SIZE, "embedding_size": 32}),  # one module for all layers
    "t5": ("T5EncoderModel", {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}),
    "mpnet": ("MPNetModel", SIZE),  # eager
    "deberta-v2": ("DebertaV2Model", SIZE),  # eager
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaModel", GROUPED),
    "smollm3": ("SmolLM3Model", {**GROUPED, **TOKENS}),
    "mistral": ("MistralModel", {**GROUPED, "sliding_window": 4}),
    "qwen2": ("Qwen2Model", GROUPED),
    "qwen3": ("Qwen3Model", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2Model", {**GROUPED, "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3TextModel", {**GROUPED, "head_dim": 8, "sliding_window": 4}),
    "phi3": ("Phi3Model", {**GROUPED, **TOKENS}),
    "gpt2": (
        "GPT2Model",
        {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt-neox": ("GPTNeoXModel", SIZE),
    "olmo2": ("Olmo2Model", {**GROUPED, **TOKENS}),
    "granite": ("GraniteModel", GROUPED),
}
KINDS = [(name, "full") for name in [*ENCODERS, *DECODERS]] + [(name, "causal") for name in DECODERS]
"""Every architecture with the attention that it can have."""


def build(name: str, attention: str = "full") -> Any:
    """A model without dropout; weights so large that its attention is far from even."""
    cls, options = (ENCODERS | DECODERS)[name]
    model_class = getattr(transformers, cls)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**options)).eval()
    if name in DECODERS:
        model.config.is_causal = attention == "causal"
        if name == "gemma3":
            model.config.use_bidirectional_attention = attention == "full"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return model


def batch(padding: str) -> tuple[Tensor, Tensor]:
    """Token ids (3, 9) and their mask."""
    tokens = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    if padding == "right":
        mask[1, 5:] = mask[2, 3:] = 0
    if padding == "left":
        mask[1, :4] = mask[2, :6] = 0
    return tokens, mask
