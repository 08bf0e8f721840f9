import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from multigrain.config import LoraSection, ModelSection
from multigrain.export.model_folder import merge_model
from multigrain.model.build import build_model
from multigrain.model.load import load_base, load_model
from tests.model.decoder import tiny_decoder


def test_a_head_that_is_left_out_is_not_reported_but_other_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, told = logging.getLogger("transformers.modeling_utils"), []

    def handle(record: logging.LogRecord) -> None:
        if logger.filter(record):
            told.append(record.getMessage())

    monkeypatch.setattr(logger, "handle", handle)
    monkeypatch.setattr(logger, "level", logging.WARNING)
    base = tiny_decoder("both", head=True)
    load_base(str(base))
    model = build_model(ModelSection(base=str(base), lora=LoraSection(rank=2)))
    model.save_pretrained(str(tmp_path / "adapter"))
    load_model(tmp_path / "adapter")
    merge_model(tmp_path / "adapter", tmp_path / "merged")
    assert told == []
    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({**weights, "model.spare.weight": torch.ones(1)}, other / "model.safetensors", {"format": "pt"})
    load_base(str(other))
    [report] = told
    assert "spare.weight" in report and "lm_head.weight" in report


def test_a_model_of_word_vectors_reads_whole_texts(tmp_path: Path) -> None:
    """Such models (Model2Vec) have no length that could be set."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    words = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=words)]).save_pretrained(str(tmp_path))
    model = load_base(str(tmp_path), max_tokens=8)
    assert model.encode(["cat " * 30 + "dog"]).argmax() == 0
