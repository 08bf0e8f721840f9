import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from multigrain.config import ModelSection
from multigrain.errors import ConfigError, RunError
from multigrain.model.build import build_model
from multigrain.model.encode import CachedEncoder, encode
from multigrain.model.load import load_base, load_model
from multigrain.model.locate import find_base
from multigrain.model.pooling import AnchorPooling, AnchorTransformer
from tests.model.decoder import tiny_decoder
from tests.model.saved_models import with_modules

KEPT_IN_FRONT = ("modules.json", "config_sentence_transformers.json", "README.md")
TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", ""]


@pytest.fixture
def model(tiny_encoder: Path) -> SentenceTransformer:
    return build_model(ModelSection(base=str(tiny_encoder), pooling="anchor", max_tokens=32))


def test_a_saved_model_gives_the_same_vectors(model: SentenceTransformer, tmp_path: Path) -> None:
    """Without multigrain too, as a case of `test_adapter` shows."""
    expected = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = load_model(tmp_path / "saved")
    assert isinstance(loaded[0], AnchorTransformer)
    assert isinstance(loaded[1], AnchorPooling)
    np.testing.assert_array_equal(loaded.encode(TEXTS), expected)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path / "saved"))


@pytest.mark.parametrize("mode", ["cls", "weightedmean", ("cls", "mean")])
def test_a_base_keeps_its_pooling(tiny_encoder: Path, tmp_path: Path, mode: Any) -> None:
    """Training then starts from the vectors that the base is measured with."""
    base = with_modules(tiny_encoder, tmp_path / "base", mode=mode)
    model = build_model(ModelSection(base=str(base), max_tokens=32))
    expected = load_base(str(base), 32).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)


def test_a_base_without_a_pooling_gets_the_mean(tiny_encoder: Path) -> None:
    section = ModelSection(base=str(tiny_encoder), max_tokens=32)
    expected = build_model(section.model_copy(update={"pooling": "mean"})).encode(TEXTS)
    np.testing.assert_array_equal(build_model(section).encode(TEXTS), expected)


def test_a_base_with_anchor_pooling_keeps_its_settings(tiny_encoder: Path, tmp_path: Path) -> None:
    section = ModelSection.model_validate(
        {"base": str(tiny_encoder), "pooling": "anchor", "anchor": {"form": "linear"}}
    )
    trained = build_model(section)
    trained.save_pretrained(str(tmp_path / "trained"))
    again = build_model(ModelSection(base=str(tmp_path / "trained"), max_tokens=32))
    assert isinstance(again[1], AnchorPooling) and again[1].form == "linear"
    np.testing.assert_allclose(again.encode(TEXTS), trained.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "weighted"])
def test_the_hosts_poolings_load_plainly(
    tiny_encoder: Path, tmp_path: Path, pooling: Literal["mean", "cls", "last", "weighted"]
) -> None:
    model = build_model(ModelSection(base=str(tiny_encoder), pooling=pooling, max_tokens=16))
    model.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path))
    assert plain.max_seq_length == 16
    np.testing.assert_array_equal(plain.encode(TEXTS), model.encode(TEXTS))


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.base: .* is not a model"):
        load_base(str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        find_base(str(tmp_path / "absent"), "model.base")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="grading.judge_model: .* cannot be loaded as a model"):
        load_base(str(tmp_path), key="grading.judge_model")
    with pytest.raises(RunError, match=r"no model here \(no modules.json\)"):
        load_model(tmp_path)


def test_the_embedded_encoder_under_anchor_pooling_equals_eager() -> None:
    """The real MiniLM against the definition on its eager attention weights, in float64."""
    from transformers import AutoModel

    model = build_model(ModelSection(pooling="anchor", max_tokens=64)).double()
    eager = AutoModel.from_pretrained(find_base("embedded", ""), attn_implementation="eager").double().eval()
    features = model.preprocess(["a short text", "a longer text, with a comma and some more words in it"])
    inputs = {name: features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        output = eager(**inputs, output_attentions=True)
        ours = model(dict(features))["sentence_embedding"]
    mask = inputs["attention_mask"].double()
    attended = torch.log1p(mask.sum(1)[:, None, None, None] * output.attentions[-1])
    scores = (attended * mask[:, None, :, None]).sum((1, 2)) * mask
    pooled = torch.einsum("bn,bnd->bd", scores / scores.sum(1, keepdim=True), output.last_hidden_state)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(pooled), rtol=1e-9, atol=1e-9)


def test_encoding_keeps_the_order_and_the_cache_its_model(model: SentenceTransformer, tmp_path: Path) -> None:
    np.testing.assert_allclose(encode(model, TEXTS, "document", "x"), model.encode(TEXTS), atol=1e-6)
    loads: list[str] = []

    def load() -> SentenceTransformer:
        loads.append("once")
        return model

    path = tmp_path / "vectors.bin"
    first = CachedEncoder(load, "model a", path, "x", {})(TEXTS[:3], "document")
    again = CachedEncoder(load, "model a", path, "x", {})([TEXTS[1], TEXTS[0], TEXTS[1]], "query")
    np.testing.assert_array_equal(again, first[[1, 0, 1]])
    assert len(loads) == 1
    CachedEncoder(load, "model b", path, "x", {})(TEXTS[:1], "document")
    assert len(loads) == 2
    path.write_bytes(path.read_bytes()[:100])
    CachedEncoder(load, "model b", path, "x", {})(TEXTS[:1], "document")
    assert len(loads) == 3


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_model_that_lacks_any_weight_is_not_loaded(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """The libraries would draw it at random."""
    base = tiny_encoder if kind == "encoder" else tiny_decoder()
    build_model(ModelSection(base=str(base), pooling="mean")).save_pretrained(str(tmp_path))
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    for name in (name for name in weights if "pooler" not in name):
        save_file({key: weight for key, weight in weights.items() if key != name}, file, {"format": "pt"})
        with pytest.raises(RunError, match="1 of the model's weights are missing from its files, such as"):
            load_model(tmp_path)


def test_a_base_in_a_folder_of_its_own(tiny_encoder: Path, tmp_path: Path) -> None:
    """As sentence-transformers laid them for years."""
    SentenceTransformer(str(tiny_encoder)).save_pretrained(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "0_Transformer").mkdir()
    for path in [path for path in tmp_path.iterdir() if path.is_file() and path.name not in KEPT_IN_FRONT]:
        path.rename(tmp_path / "0_Transformer" / path.name)
    found, expected = (build_model(ModelSection(base=str(base), max_tokens=32)) for base in (tmp_path, tiny_encoder))
    np.testing.assert_array_equal(found.encode(TEXTS), expected.encode(TEXTS))
