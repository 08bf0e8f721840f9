"""Draw seeded samples of inputs that are read one by one."""

import random
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def choose(inputs: Iterable[T], count: int, limit: int | None, seed: int) -> Iterator[T]:
    """Yield a seeded sample of at most `limit` of the `count` inputs, in their order.

    With the same seed, a larger sample holds all of a smaller one.
    """
    if limit is None or limit >= count:
        yield from inputs
        return
    order = list(range(count))
    random.Random(seed).shuffle(order)
    chosen = set(order[:limit])
    yield from (item for index, item in enumerate(inputs) if index in chosen)
