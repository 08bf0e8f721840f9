"""Matrix products in half precision."""

import subprocess
import sys

import pytest
import torch

MANY_SHAPES = """
import torch
from multigrain.model.precision import matrix_products

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

layers = torch.nn.Sequential(torch.nn.Linear(576, 1536), torch.nn.Linear(1536, 576)).requires_grad_(False)
before = memory()
for tokens in range(200, 500, 2):
    with matrix_products(torch.device("cpu"), "bf16"):
        vectors = layers(torch.randn(tokens, 576, requires_grad=True))
    vectors.float().sum().backward()
print((memory() - before) / 1e6)
"""


@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported() or not sys.platform.startswith("linux"),
    reason="this CPU has no instructions for half precision",
)
def test_memory_does_not_grow_with_the_shapes_of_batches() -> None:
    """torch would keep compiled kernels for all 150 shapes, about 500 MB; a training of SmolLM2 took 15 GB so."""
    process = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, check=True)
    assert float(process.stdout) < 300
