from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from multigrain.config import LoraSection, load_config
from multigrain.pipeline.verbs import run
from multigrain.training.weight_interpolation import interpolated_with_base
from tests.model.adapters import build
from tests.model.decoder import tiny_decoder


def test_weights_by_hand() -> None:
    model = nn.Linear(1, 2, bias=True)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [2.0]]))
    with interpolated_with_base(model, 0.25), torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0], [-2.0]]))
    assert model.weight.flatten().tolist() == [4.0, -1.0]
    with interpolated_with_base(model, 0), torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0], [-2.0]]))
    assert model.weight.flatten().tolist() == [5.0, -2.0]


def test_what_an_adapter_adds_is_scaled() -> None:
    model = build(tiny_decoder(), LoraSection(rank=4, dropout=0))
    layer: Any = next(m for m in model.modules() if hasattr(m, "get_delta_weight"))
    with interpolated_with_base(model, 0.5), torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        whole = layer.get_delta_weight("default").detach().clone()
    np.testing.assert_allclose(layer.get_delta_weight("default").detach(), whole / 2, atol=1e-6)


def test_a_run_keeps_a_share_of_its_base(run_toml: Path, tiny_encoder: Path) -> None:
    weights = [weights_of(tiny_encoder)]
    for share in (0, 0.25):
        config = load_config(run_toml, [f"training.base_share={share}", f"name=share-{share}"])
        run(config)
        weights.append(weights_of(config.folder / "model"))
    base, whole, kept = weights
    moved = {name for name in whole if not torch.equal(base[name], whole[name])}
    assert len(moved) > 10
    for name in moved:
        torch.testing.assert_close(kept[name], 0.25 * base[name] + 0.75 * whole[name], atol=1e-6, rtol=1e-5)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
