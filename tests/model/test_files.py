"""Which model is it? Whatever changes its vectors changes its digest, and nothing else does."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from multigrain.config import ModelSection, load_config
from multigrain.files import digest_of
from multigrain.model.build import build_model
from multigrain.model.files import model_digest, model_files
from multigrain.model.load import load_base, load_model
from multigrain.model.roles import Embed
from multigrain.pipeline.encoders import base_encoder, judge_encoder, trained_encoder
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_table import STAGES
from tests.conftest import ROUNDED
from tests.model.decoder import tiny_decoder

LONG = ["the cat sleeps near the old table and the dog runs under the big tree near the river and the garden door"]


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def base(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A mean-pooled model in the old layout: weights in pytorch_model.bin."""
    build_model(ModelSection(base=str(tiny_encoder), pooling="mean", max_tokens=32)).save_pretrained(
        str(tmp_path / "base")
    )
    weights = load_file(tmp_path / "base" / "model.safetensors")
    torch.save(weights, tmp_path / "base" / "pytorch_model.bin")
    (tmp_path / "base" / "model.safetensors").unlink()
    return tmp_path / "base"


def change_weights(base: Path) -> None:
    weights = torch.load(base / "pytorch_model.bin")
    torch.save({name: weight + 0.5 * torch.randn_like(weight) for name, weight in weights.items()}, base / "x")
    (base / "x").rename(base / "pytorch_model.bin")


def change_pooling(base: Path) -> None:
    (base / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "cls"}))


def change_length(base: Path) -> None:
    edit(base / "sentence_bert_config.json", max_seq_length=6)


@pytest.mark.parametrize("change", [change_weights, change_pooling, change_length])
def test_kept_vectors_are_those_of_the_base_as_it_is(base: Path, run_toml: Path, change: Any) -> None:
    config = load_config(run_toml, [f"model.base={base}", f"grading.judge_model={base}"])
    before = [encoder(config, RunDir(config.folder))(LONG, "query") for encoder in (base_encoder, judge_encoder)]
    change(base)
    expected = load_base(str(base), 32).encode(LONG, normalize_embeddings=True)
    for encoder, old in zip((base_encoder, judge_encoder), before, strict=True):
        found = encoder(config, RunDir(config.folder))(LONG, "query")
        assert float((found * old).sum()) < 0.999
        np.testing.assert_allclose(found, expected, atol=ROUNDED)


@pytest.mark.parametrize("pooling", ["mean", "anchor"])
def test_kept_vectors_are_those_of_the_model_as_it_was_trained_last(
    pooling: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The same weights that read 6 tokens, then 32."""

    def save_and_encode(max_tokens: int) -> Any:
        section = ModelSection(base=str(tiny_encoder), pooling=pooling, max_tokens=max_tokens)
        build_model(section).save_pretrained(str(tmp_path / "model"))
        embed: Embed = trained_encoder(tmp_path / "model", tmp_path / "vectors.bin")
        return embed(LONG, "document")

    short, long = save_and_encode(8), save_and_encode(32)
    assert float((short * long).sum()) < 0.999
    np.testing.assert_allclose(long, load_model(tmp_path / "model").encode(LONG), atol=ROUNDED)


def test_a_digest_is_of_what_is_read(base: Path, tmp_path: Path) -> None:
    first, seen = model_digest(str(base)), set()
    copy = shutil.copytree(base, tmp_path / "elsewhere")
    for name in ("README.md", ".gitattributes", "optimizer.pt", "trainer_state.json", "tf_model.h5"):
        (copy / name).write_text("x")
    for name in ("onnx/model.onnx", "checkpoint-3/model.safetensors"):
        (copy / name).parent.mkdir()
        (copy / name).write_text("x")
    assert model_digest(str(copy)) == first
    for name in ("tokenizer.json", "config.json", "modules.json", "sentence_bert_config.json", "modeling.py"):
        (copy / name).write_text("{}\n")
        seen.add(model_digest(str(copy)))
    assert len(seen | {first}) == 6
    settings = [(), (32,), (64,), (32, "fp32"), (32, "bf16")]
    assert len({model_digest(str(base), *one) for one in settings}) == len(settings)


def test_a_gguf_file_the_embedded_models_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("a")
    (tmp_path / "b.gguf").write_text("b")
    names = [str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf"), "embedded", "embedded-llm", "no/name", "no/other"]
    assert len({model_digest(name) for name in names}) == len(names)
    assert [len(model_files(name)) > 0 for name in names] == [True, True, True, True, False, False]


def test_an_adapter_is_another_on_another_base(tmp_path: Path) -> None:
    base = shutil.copytree(tiny_decoder(), tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    first = model_digest(str(tmp_path / "adapter"))
    (base / "config.json").write_text("{}")
    assert model_digest(str(tmp_path / "adapter")) != first


def in_hub_cache(cache: Path, name: str, source: Path, commit: str) -> None:
    folder = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


def test_a_hub_name_is_its_revision(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision that is keyed by is the one that is loaded, also into our own frame."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    in_hub_cache(tmp_path / "hub", "org/tiny", base, "a" * 40)
    first, name = load_base("org/tiny").encode(LONG), "org/tiny"
    digest = model_digest(name)
    change_weights(base)
    in_hub_cache(tmp_path / "hub", "org/tiny", base, "b" * 40)
    assert model_digest(name) != digest
    assert [file.read_text() for file in model_files(name)] == ["b" * 40]
    expected = load_base(str(base)).encode(LONG)
    assert not np.allclose(first, expected, atol=1e-3)
    np.testing.assert_array_equal(load_base(name).encode(LONG), expected)
    ours, local = (build_model(ModelSection(base=one, max_tokens=32)) for one in (name, str(base)))
    np.testing.assert_array_equal(ours.encode(LONG), local.encode(LONG))


def test_a_file_is_read_in_pieces_and_once(tmp_path: Path) -> None:
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        first = digest_of(tmp_path / "weights")
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert digest_of(tmp_path / "weights") == first
    with (tmp_path / "weights").open("ab") as file:
        file.write(b"x")
    assert digest_of(tmp_path / "weights") != first


def test_grading_goes_by_the_cross_encoder_too(tiny_cross_encoder: Path, run_toml: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_cross_encoder, tmp_path / "cross")
    config = load_config(run_toml, ['grading.judge="cross-encoder"', f"grading.cross_encoder={model}"])
    stages = {stage.name: stage for stage in STAGES}
    before = [stages[name].fingerprint(config, RunDir(config.folder)) for name in ("synthesize", "grade")]
    edit(model / "config.json", hidden_act="relu")
    after = [stages[name].fingerprint(config, RunDir(config.folder)) for name in ("synthesize", "grade")]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
