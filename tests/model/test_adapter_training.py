"""Training of adapters: what is trained, with which gradients, in 4 bits and in runs."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from transformers import GPT2Config, GPT2Model

from multigrain.config import LoraSection, load_config
from multigrain.errors import ConfigError
from multigrain.export.model_folder import merge_model
from multigrain.model.adapter import has_adapter
from multigrain.model.build import sees_ahead
from multigrain.model.load import load_model
from multigrain.pipeline.verbs import run
from multigrain.training.train import train_model
from tests.model.adapters import DORA, LORA, TEXTS, backbone, build, columns, save, trained
from tests.model.decoder import tiny_decoder, tokenizer
from tests.training.test_train import SECTION, curriculum, train_until_cut, weights


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are done sooner than two threads have met."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def places(model: SentenceTransformer) -> set[str]:
    """The modules with trainable parameters, by layer and name; all of them must be an adapter's."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name in names)
    return {name.partition(".lora_")[0].partition("layers.")[2] for name in names}


def test_the_adapter_alone_is_trained_where_it_was_asked_for() -> None:
    base = tiny_decoder()
    assert len(places(build(base))) == 3 * 7
    assert places(build(base, LoraSection(targets=["q_proj", "v_proj"], top_layers=2))) == {
        f"{layer}.self_attn.{name}" for layer in (1, 2) for name in ("q_proj", "v_proj")
    }
    assert places(build(base, LoraSection(targets=["mlp.up_proj"], top_layers=1))) == {"2.mlp.up_proj"}
    assert len(places(build(base, LoraSection(dora=True, top_layers=1)))) == 7


def test_rank_and_alpha_are_those_of_the_settings() -> None:
    for alpha, scale in ((None, 2.0), (4, 0.5)):
        layer = backbone(build(tiny_decoder(), LoraSection(rank=8, alpha=alpha))).layers[0].self_attn.q_proj
        assert layer.lora_A["default"].weight.shape == (8, 32)
        assert layer.scaling["default"] == scale


def test_the_last_layers_of_gpt2_which_has_modules_of_its_own(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=80, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    GPT2Model(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    for lora, count in ((LoraSection(top_layers=1), 4), (LoraSection(top_layers=1, targets=["c_attn"]), 1)):
        model = build(tmp_path, lora)
        names = {name.partition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert len(names) == count and all(".h.2." in name for name in names)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"top_layers": 4}, "model.lora.top_layers: found 4; the base has 3 layers"),
        ({"targets": ["query"]}, r"model.lora.targets: found \['query'\]; the base has down_proj, gate_proj, k_proj"),
        ({"targets": ["q_proj", "foo"]}, r"model.lora.targets: found \['foo'\]; the base has"),
        ({"targets": []}, "model.lora.targets"),
        ({"targets": ["embed_tokens"], "top_layers": 1}, "the last 1 layers have none of them"),
        ({"targets": ["norm"]}, "model.lora: .*LlamaRMSNorm.* is not supported"),
    ],
)
def test_settings_that_the_base_cannot_have(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_decoder(), LoraSection(**lora))


@pytest.mark.parametrize("lora", [LORA, None])
def test_an_adapter_is_no_base(tmp_path: Path, lora: LoraSection | None) -> None:
    folder = save(build(tiny_decoder()), tmp_path / "folder")
    with pytest.raises(ConfigError, match="model.base: .*folder is an adapter .* multigrain merge"):
        build(folder, lora)


def test_an_adapter_is_trained_in_float32_on_a_base_in_half_precision() -> None:
    model = build(tiny_decoder(dtype=torch.bfloat16), DORA)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert backbone(model).embed_tokens.weight.dtype == torch.bfloat16
    assert np.isfinite(trained(model).encode(TEXTS)).all()


@pytest.mark.parametrize("way", ["GradCache", "checkpointing"])
@pytest.mark.parametrize("lora", [LORA, DORA])
def test_ways_to_save_memory_give_the_same_gradients(way: str, lora: LoraSection) -> None:
    model = trained(build(tiny_decoder(), lora)).train()  # trained, so that no factor is zero
    loss: Any = MultipleNegativesRankingLoss(model)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        loss(columns(model), torch.empty(0)).backward()
        found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        assert all(gradient is not None and gradient.any() for gradient in found)
        return [gradient for gradient in found if gradient is not None]

    plain = gradients()
    if way == "GradCache":
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=1)
    else:
        backbone(model).gradient_checkpointing_enable()
    for found, expected in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_model_in_4_bits_is_trained_saved_loaded_and_merged_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = tiny_decoder(width=64)  # it packs 64 numbers together
    model = build(base, LoraSection(rank=4, quantize="4bit"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "bitsandbytes")  # it warns where it has no gradient
            trained(model)
    except (RuntimeError, NotImplementedError, OSError) as error:
        pytest.skip(f"bitsandbytes cannot train in 4 bits here: {error}")
    assert type(backbone(model).layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    vectors = model.encode(TEXTS)
    assert np.abs(vectors - build(base).encode(TEXTS)).max() > 0.1
    loaded = load_model(save(model, tmp_path / "folder"))
    assert loaded[0].quantize == "4bit" and sees_ahead(loaded[0].model)
    np.testing.assert_allclose(loaded.encode(TEXTS), vectors, atol=1e-5)
    # Merged into the weights in their full precision, which are near those in 4 bits.
    merge_model(tmp_path / "folder", tmp_path / "merged")
    merged = load_model(tmp_path / "merged")
    assert merged[0].quantize is None and {p.dtype for p in merged.parameters()} == {torch.float32}
    assert ((merged.encode(TEXTS) * vectors).sum(1) > 0.9).all()
    untrained = build(base).encode(TEXTS)
    assert (merged.encode(TEXTS) * vectors).sum() > (untrained * vectors).sum() + 0.1


def test_a_training_that_was_cut_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def anew() -> SentenceTransformer:
        torch.manual_seed(7)
        return build(tiny_decoder(), LoraSection(rank=4, dropout=0.1))

    whole = anew()
    before = weights(whole)
    train_model(whole, curriculum(), SECTION, tmp_path / "whole", seed=7)

    train_until_cut(anew(), SECTION, tmp_path / "cut", monkeypatch)
    resumed = build(tiny_decoder(), LoraSection(rank=4, dropout=0.1))  # starts elsewhere
    train_model(resumed, curriculum(), SECTION, tmp_path / "cut", seed=7)
    assert sees_ahead(resumed[0].model)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
        assert torch.equal(value, before[name]) is ("lora_" not in name), name


def test_a_run_gives_the_same_adapter_again(run_toml: Path, tiny_encoder: Path) -> None:
    run_toml.write_text(run_toml.read_text().replace("max_tokens = 32", "max_tokens = 32\nlora = {rank = 4}"))
    found = []
    for name in ("one", "two"):
        config = load_config(run_toml, [f"name={name}"])
        run(config)
        found.append(load_model(config.folder / "model").encode(TEXTS))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_a_whole_run_trains_an_adapter_and_exports_a_whole_model(
    run_toml: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run_toml.read_text().replace('pooling = "anchor"', 'pooling = "mean"')
    settings = "bidirectional = true\nlora = {rank = 4}"
    base = f'base = "{tiny_encoder}"'
    text = text.replace(base, f'base = "{tiny_decoder()}"\n{settings}').replace(
        'pooling = "anchor"', 'pooling = "mean"'
    )
    run_toml.write_text(text)
    config = load_config(run_toml)
    summary = run(config)
    assert "held-out" in str(summary)
    adapter, exported = config.folder / "training" / "model", config.folder / "model"
    assert has_adapter(load_model(adapter))
    assert not (exported / "adapter_config.json").exists()
    model = SentenceTransformer(str(exported))  # without a flag
    np.testing.assert_allclose(model.encode(TEXTS), load_model(adapter).encode(TEXTS), atol=1e-5)
    assert sees_ahead(model[0].model)
    written = {path: path.stat().st_mtime_ns for path in config.folder.rglob("*.safetensors")}
    run(config)
    assert {path: path.stat().st_mtime_ns for path in config.folder.rglob("*.safetensors")} == written
