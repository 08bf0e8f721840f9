"""What a base makes of its pooled vector stays in the model that is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
)

from multigrain.config import ModelSection, load_config
from multigrain.model.build import build_model
from multigrain.model.load import load_base, load_model
from multigrain.model.precheck import notes, precheck_model
from multigrain.pipeline.check import check
from multigrain.pipeline.verbs import run
from tests.model.saved_models import TEXTS, with_modules


@pytest.mark.parametrize(("pooling", "lora"), [("anchor", False), ("cls", False), ("mean", True)])
def test_dense_and_layer_norm_stay(pooling: Any, lora: bool, tiny_encoder: Path, tmp_path: Path) -> None:
    """As EmbeddingGemma and sentence-t5 have it. With the base's own pooling, the vectors are the base's own."""
    more = [Dense(32, 48), Dense(48, 16, activation_function=torch.nn.Identity()), LayerNorm(16), Normalize()]
    base = with_modules(tiny_encoder, tmp_path / "base", *more, mode="cls")
    section = {"base": str(base), "pooling": pooling, "lora": {"rank": 2} if lora else None}
    precheck_model(ModelSection.model_validate(section))
    model = build_model(ModelSection.model_validate(section))
    assert [type(module).__name__ for module in model][2:] == ["Dense", "Dense", "LayerNorm", "Normalize"]
    assert all(weight.requires_grad is not lora for weight in model[2].parameters())
    if pooling == "cls":
        np.testing.assert_allclose(model.encode(TEXTS), load_base(str(base)).encode(TEXTS), atol=1e-6)
    model.save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(load_model(tmp_path / "saved").encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    if pooling != "anchor" and not lora:
        np.testing.assert_allclose(
            SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), model.encode(TEXTS), atol=1e-6
        )
    assert "the base's Dense (32 -> 48, 48 -> 16) is kept after the pooling" in notes(ModelSection(base=str(base)))


def test_a_base_that_cuts_its_vectors_is_compared_alike(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", truncate_dim=8)
    model = build_model(ModelSection(base=str(base), pooling="mean"))
    assert model.encode(TEXTS).shape == load_base(str(base)).encode(TEXTS).shape == (4, 8)
    np.testing.assert_allclose(
        model.encode(TEXTS, normalize_embeddings=True),
        load_base(str(base)).encode(TEXTS, normalize_embeddings=True),
        atol=1e-6,
    )
    model.save_pretrained(str(tmp_path / "saved"))
    assert load_model(tmp_path / "saved").encode(TEXTS).shape == (4, 8)
    assert any("vectors are truncated to 8 dimensions" in note for note in notes(ModelSection(base=str(base))))
    assert "vectors are truncated to 8 dimensions" in check(load_config(run_toml, [f"model.base={base}"]))


def test_a_run_trains_and_exports_what_stays(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    """Dense and the cut are there in the folder that others load; the cut vectors are trained, and so is the Dense."""
    base = with_modules(tiny_encoder, tmp_path / "base", Dense(32, 16), truncate_dim=8)
    config = load_config(run_toml, [f"model.base={base}", 'model.pooling="mean"', "training.learning_rate=0.01"])
    summary = run(config)
    assert set(summary["base"]) == set(summary["trained"]) == {"held-out"}
    plain, before = SentenceTransformer(str(config.folder / "model")), load_base(str(base))
    assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert plain.encode(TEXTS).shape == (4, 8)
    after, old = (dict(model.named_parameters())["2.linear.weight"] for model in (plain, before))
    assert not torch.allclose(after, old, atol=1e-3)
