"""What older releases and other servers read of a saved model, which loads as before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Transformer
from transformers import AutoModel, LlamaConfig, LlamaModel

from multigrain.config import ModelSection
from multigrain.model.build import build_model
from multigrain.model.load import load_model
from multigrain.model.older_settings import OLDEST, OLDEST_ANCHOR, least_release
from tests.model.decoder import tiny_decoder, tokenizer

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", ""]
FLAGS = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(
    ("pooling", "flag"),
    [("mean", "mean_tokens"), ("cls", "cls_token"), ("last", "lasttoken"), ("weighted", "weightedmean_tokens")],
)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_pooling_of_the_host_is_saved_in_words_that_all_read(
    pooling: Any, flag: str, kind: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    base = tiny_encoder if kind == "encoder" else tiny_decoder(chat=True)
    section = ModelSection(base=str(base), pooling=pooling, max_tokens=16, prompt_in_pooling=False)
    model = build_model(section)
    model.save_pretrained(str(tmp_path))
    types = [module["type"] for module in read(tmp_path, "modules.json")]
    assert types == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    assert read(tmp_path, "sentence_bert_config.json") == {"max_seq_length": 16, "do_lower_case": False}
    flags = {f"pooling_mode_{name}": name == flag for name in FLAGS}
    found = read(tmp_path, "1_Pooling/config.json")
    assert list(found.items()) == [("word_embedding_dimension", 32), *flags.items(), ("include_prompt", False)]
    assert read(tmp_path, "tokenizer_config.json")["tokenizer_class"] != "TokenizersBackend"
    assert least_release(tmp_path) == OLDEST
    for loaded in (SentenceTransformer(str(tmp_path)), load_model(tmp_path)):
        assert loaded.max_seq_length == 16
        np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
        np.testing.assert_allclose(loaded.encode(TEXTS, prompt="the "), model.encode(TEXTS, prompt="the "), atol=1e-6)
        loaded.save_pretrained(str(tmp_path / "again"))
    assert least_release(tmp_path / "again") == OLDEST


def test_dense_and_layer_norm_have_old_words_too(tiny_encoder: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(tiny_encoder)), Pooling(32, "mean"), Dense(32, 8), LayerNorm(8), Normalize()]
    SentenceTransformer(modules=modules).save_pretrained(str(tmp_path / "base"))
    model = build_model(ModelSection(base=str(tmp_path / "base"), pooling="mean"))
    model.save_pretrained(str(tmp_path / "saved"))
    assert {*read(tmp_path / "saved", "2_Dense/config.json")} == {
        *("in_features", "out_features", "bias", "activation_function")
    }
    loaded = SentenceTransformer(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "linear", "factor": 2.0}])
def test_how_positions_turn_is_said_at_the_old_place(scaling: dict[str, Any], tmp_path: Path) -> None:
    """transformers 4 does not know `rope_parameters`, and would take 10,000."""
    turn = {"rope_theta": 500.0, "rope_type": "default", **scaling}
    sizes: dict[str, Any] = {"vocab_size": 70, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(**sizes, num_attention_heads=4, rope_parameters=turn)).save_pretrained(tmp_path / "base")
    tokenizer("eos", pad=True).save_pretrained(tmp_path / "base")
    model = build_model(ModelSection(base=str(tmp_path / "base"), pooling="mean"))
    model.save_pretrained(str(tmp_path / "saved"))
    config = read(tmp_path / "saved", "config.json")
    assert config["rope_theta"] == 500.0
    assert config.get("rope_scaling") == (scaling or None)
    assert AutoModel.from_pretrained(tmp_path / "saved").config.rope_parameters == turn
    np.testing.assert_allclose(load_model(tmp_path / "saved").encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_what_has_no_old_words_keeps_the_new(tiny_encoder: Path, tmp_path: Path) -> None:
    build_model(ModelSection(base=str(tiny_encoder), pooling="anchor")).save_pretrained(str(tmp_path / "anchor"))
    assert least_release(tmp_path / "anchor") == OLDEST_ANCHOR
    model = build_model(ModelSection(base=str(tiny_encoder), pooling="mean"))
    special: Any = model[0]
    special.query_length = 8
    model.save_pretrained(str(tmp_path / "special"))
    assert read(tmp_path / "special", "sentence_bert_config.json")["query_length"] == 8
    assert least_release(tmp_path / "special") == OLDEST_ANCHOR
