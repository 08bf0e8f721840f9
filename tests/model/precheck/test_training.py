"""Bases that cannot be trained, or not as asked, are told by their files."""

import json
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
)

from multigrain.config import ModelSection
from multigrain.errors import ConfigError
from multigrain.model.build import build_model
from multigrain.model.precheck import precheck_model
from tests.model.decoder import tiny_decoder
from tests.model.saved_models import refused, with_modules


def test_modules_that_would_be_lost(tiny_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", Normalize())
    modules = json.loads((base / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.WordWeights"
    (base / "modules.json").write_text(json.dumps(modules))
    refused(ModelSection(base=str(base)), "modules that training would drop: WordWeights")
    modules[0]["type"] = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    (base / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="its first module is a StaticEmbedding; wanted a transformer"):
        precheck_model(ModelSection(base=str(base)))


def test_a_decoder_that_cannot_end_a_text(tmp_path: Path) -> None:
    refused(ModelSection(base=str(tiny_decoder(eos=False))), "no EOS token, which decoders need at the end of a text")
    for good in (tiny_decoder(), tiny_decoder("eos")):
        precheck_model(ModelSection(base=str(good)))
        build_model(ModelSection(base=str(good)))


def test_targets_of_an_adapter_that_the_base_has_not(tiny_encoder: Path) -> None:
    lora: Any = {"targets": ["query", "values"]}
    section = ModelSection.model_validate({"base": str(tiny_encoder), "lora": lora})
    refused(section, r"lora.targets: found \['values'\]; the base has dense, key, query, value")
    for targets in (["query"], ["attention.self.query", "key"], ["0.output.dense"]):
        section = ModelSection.model_validate({"base": str(tiny_encoder), "lora": {"targets": targets}})
        precheck_model(section)
        build_model(section)


def test_a_dense_that_does_not_fit(tiny_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "two", Dense(64, 16), mode=("cls", "mean"))
    build_model(ModelSection(base=str(base), max_tokens=32))  # keeps both poolings
    refused(
        ModelSection(base=str(base), pooling="mean"),
        "its Dense reads vectors of 64 dimensions, .* one pooling gives 32",
    )
    tokens = with_modules(tiny_encoder, tmp_path / "tokens", Dense(32, 16, module_input_name="token_embeddings"))
    with pytest.raises(ConfigError, match="its Dense reads token vectors"):
        precheck_model(ModelSection(base=str(tokens)))
    with pytest.raises(ConfigError, match="matryoshka: found .20.; the vectors have 16 dimensions"):
        precheck_model(ModelSection(base=str(with_modules(tiny_encoder, tmp_path / "one", Dense(32, 16)))), [20])


def test_more_layers_that_see_ahead_than_there_are(tiny_encoder: Path) -> None:
    section = ModelSection.model_validate({"base": str(tiny_encoder), "bidirectional": 5})
    refused(section, "bidirectional: found 5; the base has 2 layers")
