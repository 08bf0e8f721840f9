"""Saved models with something special, or something wrong, about them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    Transformer,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from multigrain.config import ModelSection
from multigrain.errors import MultigrainError
from multigrain.model.build import build_model
from multigrain.model.precheck import precheck_model

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", ""]


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_modules(tiny_encoder: Path, folder: Path, *modules: Any, mode: Any = "mean", **options: Any) -> Path:
    """A base with more than a transformer and a pooling."""
    torch.manual_seed(1)
    begin = [Transformer(str(tiny_encoder)), Pooling(32, mode)]
    SentenceTransformer(modules=[*begin, *modules], **options).save_pretrained(str(folder), create_model_card=False)
    return folder


def joining_encoder(folder: Path) -> Path:
    """A model whose tokenizer makes one token of a space and the letter after it, as those of many decoders do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    names = ["[PAD]", *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(names), max_position_embeddings=128, **shape)).save_pretrained(folder)
    return folder


def shallow(base: Path, folder: Path) -> Path:
    """A tiny model with one layer: each takes seconds to export as a graph."""
    shutil.copytree(base, folder)
    edit(folder / "config.json", num_hidden_layers=1)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def refused(section: ModelSection, message: str) -> None:
    """By its files, and by whoever builds it without having looked."""
    with pytest.raises(MultigrainError, match=message):
        precheck_model(section)
    with pytest.raises(MultigrainError):
        build_model(section)
