"""Number the members of runs of equal values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks_in_runs(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of equal values before each of some ascending values, (n,).

    >>> ranks_in_runs(np.array([3, 3, 5, 7, 7, 7])).tolist()
    [0, 1, 0, 0, 1, 2]
    """
    ranks: NDArray[np.int64] = np.arange(len(values)) - np.searchsorted(values, values)
    return ranks
