"""A tiny decoder built in code: a Llama with random weights and a word tokenizer that appends no EOS token."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from tests.conftest import WORDS

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
BOS, EOS, PAD = 1, 2, 3
TEMPLATES = {"none": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>"}
CHAT = "{% for message in messages %}the old {{ message['content'] }} {% endfor %}where is"
"""What the host would put every text into, if it were let."""

_folders = tempfile.TemporaryDirectory(prefix="tiny_decoders")


@cache
def tiny_decoder(
    template: Literal["none", "bos", "eos", "both"] = "none",
    padding_side: Literal["right", "left"] = "right",
    pad: bool = False,
    eos: bool = True,
    dtype: torch.dtype = torch.float32,
    width: int = 32,
    *,
    chat: bool = False,
    head: bool = False,
) -> Path:
    """Three layers, two heads to a key; built once for each set of arguments. Never write into it: take a copy."""
    folder = Path(tempfile.mkdtemp(dir=_folders.name))
    words = tokenizer(template, padding_side, pad, eos)
    words.chat_template = CHAT if chat else None
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config) if head else LlamaModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # attention far from even, so that vectors tell one kind from another
    model.to(dtype).save_pretrained(folder)
    return folder


def tokenizer(template: str = "none", padding_side: str = "right", pad: bool = False, eos: bool = True) -> Any:
    """One token a word."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    if template != "none":
        words.post_processor = TemplateProcessing(TEMPLATES[template], special_tokens=[("<s>", BOS), ("</s>", EOS)])
    names: dict[str, Any] = {"unk_token": "<unk>", "bos_token": "<s>"}
    names |= {"eos_token": "</s>"} if eos else {}
    names |= {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        padding_side=padding_side,
        model_max_length=64,
        clean_up_tokenization_spaces=False,
        **names,
    )
