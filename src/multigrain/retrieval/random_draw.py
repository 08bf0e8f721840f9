"""A random draw that depends only on seed, pair and place of a document, not on the block size."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multigrain.records import Pair

DRAWN_FROM = 65_536
"""Documents of the corpus to draw from, themselves drawn at random: more would cost as much again as the product and
gain nothing."""

Numbers = NDArray[np.int64]


def salts_of(pairs: Sequence[Pair], seed: int) -> NDArray[np.uint32]:
    """Return an odd random number for each pair, from the seed and its id."""
    digests = [hashlib.blake2b(f"{seed} {pair.id}".encode(), digest_size=4).digest() for pair in pairs]
    return np.frombuffer(b"".join(digests), dtype=np.uint32) | np.uint32(1)


def drawn_from(numbers: Numbers, documents: int) -> Numbers:
    """Return the places of the documents to draw from: all, or about `DRAWN_FROM` of the whole corpus."""
    if documents <= DRAWN_FROM:
        return np.arange(len(numbers))
    again = scattered(scattered(numbers).astype(np.int64))  # twice, so that it is independent of the keys
    return np.flatnonzero(again < np.uint32(2**32 * DRAWN_FROM / documents))


def scattered(numbers: Numbers) -> NDArray[np.uint32]:
    """Return a pseudo-random number for each document, all distinct, by the finalizer of MurmurHash3."""
    x = numbers.astype(np.uint32) + np.uint32(1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))
