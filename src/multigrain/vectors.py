"""The types that encoders and their users share. No torch."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(number of texts, dimension)"""

Embed = Callable[[Sequence[str]], Vectors]
"""Texts to vectors of length 1, so that a dot product is a cosine."""
