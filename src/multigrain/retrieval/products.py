"""Compute the products of two sets of vectors block by block, on a GPU if there is one."""

import sys
from typing import Any

import numpy as np

from multigrain.model.roles import Vectors


class Products:
    """The products of fixed vectors, which stay on the GPU, with vectors that come in blocks.

    Args:
        vectors: (P, d).
        device: device of the products; by default a GPU, if torch is imported and sees one. (Encoding imports torch.)
            Without a device, numpy computes the products. Devices may round differently.
    """

    def __init__(self, vectors: Vectors, device: Any = None) -> None:
        torch: Any = sys.modules.get("torch")
        if device is None and torch is not None and torch.cuda.is_available():
            device = torch.device("cuda")
        self._device = device
        self._vectors: Any = vectors if device is None else torch.from_numpy(vectors).to(device)
        self._block: Any = None

    def take(self, block: Vectors) -> None:
        """Take the next block of vectors, (n, d)."""
        if self._device is None:
            self._block = block.T
        else:
            torch: Any = sys.modules["torch"]
            self._block = torch.from_numpy(np.ascontiguousarray(block)).to(self._device).T

    def of(self, rows: slice) -> Vectors:
        """Return the products, (rows, n), of these rows of the vectors with the block."""
        products: Any = self._vectors[rows] @ self._block
        result: Vectors = products if self._device is None else products.cpu().numpy()
        return result
