"""A loaded model is what its files hold, and reads no further than its positions."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from multigrain.config import ModelSection, load_config
from multigrain.errors import ConfigError
from multigrain.model.build import build_model
from multigrain.model.load import load_base, load_cross_encoder
from multigrain.model.loaded_integrity import position_limit
from multigrain.model.precheck import notes
from multigrain.pipeline.check import check
from tests.model import architectures as kinds
from tests.model.saved_models import TEXTS, edit, with_modules


def saved(kind: str, folder: Path, tiny_encoder: Path, **options: Any) -> Path:
    """A tiny model of another architecture with the word tokenizer of the tiny encoder."""
    shutil.copytree(tiny_encoder, folder)
    name, sizes = kinds.ENCODERS[kind]
    cls = getattr(transformers, name)
    cls(cls.config_class(**{**sizes, "vocab_size": 70, **options})).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_max_length=10**9)
    return folder


def other_names(folder: Path) -> None:
    """Weights as jina-embeddings-v2 names them."""
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("intermediate.dense", "mlp.up"): weight for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("form", ["safetensors", "pickle", "hub", "folder"])
def test_weights_that_would_begin_at_random(
    form: str, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    other_names(base)
    if form == "pickle":
        torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
        (base / "model.safetensors").unlink()
    if form == "folder":
        base = with_modules(tiny_encoder, tmp_path / "host")
        (inner := base / "0_Transformer").mkdir()
        for file in [path for path in base.iterdir() if path.is_file() and "sentence_trans" not in path.name]:
            file.rename(inner / file.name)
        (inner / "modules.json").rename(base / "modules.json")
        modules = json.loads((base / "modules.json").read_text())
        (base / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, modules[1]]))
        load_base(str(base))
        other_names(inner)
    if form == "hub":
        cached = tmp_path / "hub" / "models--some--base"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("c" * 40)
        shutil.copytree(base, cached / "snapshots" / ("c" * 40))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ConfigError, match=r"judge_model: .* 4 of its weights are missing from its files, such as .*inter"
    ):
        load_base("some/base" if form == "hub" else str(base), None, "grading.judge_model")


def test_old_names_of_weights_are_known(tiny_encoder: Path, tmp_path: Path) -> None:
    """As the first BERT has them; transformers translates them."""
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        weights = {f"bert.{key}".replace("bert.bert.", "bert.").replace(new, name): w for key, w in weights.items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_allclose(
        load_base(str(base)).encode(TEXTS), load_base(str(tiny_encoder)).encode(TEXTS), atol=1e-6
    )


def test_a_cross_encoder_with_weights_that_would_begin_at_random(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    judge = shutil.copytree(tiny_cross_encoder, tmp_path / "judge")
    other_names(judge)
    with pytest.raises(ConfigError, match=r"judge_model: .* 4 of its weights are missing from its files"):
        load_cross_encoder(str(judge))


@pytest.mark.parametrize(
    ("kind", "options", "reads"),
    [
        ("roberta", {"pad_token_id": 1, "max_position_embeddings": 34}, 32),
        ("xlm-roberta", {"pad_token_id": 0, "max_position_embeddings": 34}, 33),
        ("mpnet", {"max_position_embeddings": 34}, 32),
        ("bert", {"max_position_embeddings": 34}, 34),
        ("distilbert", {"max_position_embeddings": 34}, 34),
    ],
)
def test_texts_are_cut_at_the_last_position(
    kind: str, options: dict[str, Any], reads: int, tiny_encoder: Path, tmp_path: Path, run_toml: Path
) -> None:
    folder = saved(kind, tmp_path / kind, tiny_encoder, **options)
    long = [" ".join(["cat"] * 100)]
    assert position_limit(load_base(str(folder))) == reads
    for model in (load_base(str(folder), 600), build_model(ModelSection(base=str(folder), max_tokens=600))):
        assert model.max_seq_length == reads
        assert np.isfinite(model.encode(long)).all()
    [note] = notes(ModelSection(base=str(folder), max_tokens=600))
    assert note == f"model.max_tokens: found 600; {folder} reads at most {reads} tokens of a text"
    told = check(load_config(run_toml, [f"grading.judge_model={folder}", "grading.judge_max_tokens=600"]))
    assert f"grading.judge_max_tokens: found 600; {folder} reads at most {reads} tokens" in told


def test_a_cross_encoder_is_cut_at_its_last_position(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    shutil.copytree(tiny_encoder, folder)
    sizes: dict[str, Any] = {**kinds.SIZE, "vocab_size": 70, "pad_token_id": 1, "max_position_embeddings": 34}
    config = transformers.RobertaConfig(**sizes, num_labels=1)
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_max_length=10**9)
    model = load_cross_encoder(str(folder), 600)
    assert model.max_seq_length == 32
    assert np.isfinite(model.predict([(" ".join(["cat"] * 50), " ".join(["dog"] * 50))])).all()
