"""Bases that cannot be trained, or not as asked, are told by their files."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

from multigrain.config import AdaptSection, ModelSection
from multigrain.errors import ConfigError
from multigrain.model.build import build_model
from multigrain.model.language_model import load_language_model
from multigrain.model.precheck import precheck_decoder, precheck_model
from tests.model.decoder import tiny_decoder, tokenizer
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


def test_a_head_that_a_decoder_shares_with_its_input_by_default(tmp_path: Path) -> None:
    """GPT-2 does so even if its settings do not say it, as those of releases before 5."""
    config = GPT2Config(vocab_size=80, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=1, eos_token_id=2)
    GPT2Model(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "tie_word_embeddings"}))
    precheck_decoder(str(tmp_path), AdaptSection(max_tokens=16))
    causal = load_language_model(ModelSection(base=str(tmp_path), bidirectional=True)).causal
    assert causal.lm_head.weight is causal.base_model.wte.weight
    with pytest.raises(ConfigError, match="max_tokens: found 17; wanted at most 16, the number of"):
        precheck_decoder(str(tmp_path), AdaptSection(max_tokens=17))
    settings["tie_word_embeddings"] = False
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="has no language-model head"):
        precheck_decoder(str(tmp_path), AdaptSection(max_tokens=16))


def test_the_default_mask_that_is_several_tokens(tmp_path: Path) -> None:
    words = Tokenizer(BPE({"_": 0, "<": 1, ">": 2, "</s>": 3}, []))
    base = shutil.copytree(tiny_decoder("both", head=True), tmp_path / "base")
    for before, mask, message in (("<", None, "found '_', .* into 2 tokens"), ("", None, ""), ("<", "</s>", "")):
        words.normalizer = Prepend(before) if before else None
        names = {"eos_token": "</s>"} | ({"mask_token": mask} if mask else {})
        PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(base)
        with pytest.raises(ConfigError, match=message) if message else nullcontext():
            precheck_decoder(str(base), AdaptSection(max_tokens=16))


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
