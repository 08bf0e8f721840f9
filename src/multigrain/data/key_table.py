"""A table of numbers by key, for millions of keys, in a tenth of the memory of a dict."""

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray

from multigrain.records import identity

FIRST_BITS = 10
"""Binary logarithm of the number of slots of an empty table."""
FULL = 0.6
"""Largest share of slots that may be taken."""
SLACK = 1024
"""Slots after the last home slot, for keys that are pushed beyond it."""


def text_key(text: str) -> int:
    """Return half of the `identity` of a text as a number.

    The probability that any two of a billion texts share it is one in forty.
    """
    return half(identity(text))


def half(identity: bytes) -> int:
    """Return the `text_key` of a text, from its identity."""
    return int.from_bytes(identity[:8], "big")


def exact_key(*parts: str) -> int:
    """Return a digest of exactly these texts in this order, 8 bytes as a number."""
    text = parts[0] if len(parts) == 1 else "".join([f"{len(part)} {part}" for part in parts])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class KeyTable:
    """A map from 64-bit digests of texts to numbers below 2^32.

    This is a hash table with linear probing: the first bits of a key give its home slot, and the key is stored in the
    first free slot from there on. A key takes 20 to 40 bytes; in a dict with keys of 16 bytes it takes 150.
    """

    def __init__(self) -> None:
        self._count = 0
        self._allocate(FIRST_BITS)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return self._keys[self._slot(key)] != 0

    def get(self, key: int) -> int | None:
        """Return the number of the key, or None if it is absent."""
        slot = self._slot(key)
        return self._numbers[slot] if self._keys[slot] else None

    def setdefault(self, key: int, number: int) -> int:
        """Return the number of the key; store this one first if the key is absent."""
        slot = self._slot(key)
        if self._keys[slot]:
            return self._numbers[slot]
        self._keys[slot], self._numbers[slot] = key or 1, number
        self._count += 1
        if self._count > self._most:
            self._grow()
        return number

    def add(self, key: int) -> bool:
        """Add the key; return whether it is new."""
        before = self._count
        self.setdefault(key, 0)
        return self._count > before

    def keys(self) -> NDArray[np.uint64]:
        """Return all keys, in no order."""
        slots = np.frombuffer(self._keys, dtype=np.uint64)
        keys: NDArray[np.uint64] = slots[slots != 0]
        return keys

    def _slot(self, key: int) -> int:
        """Return the slot of the key, or the free slot where it would be stored."""
        key = key or 1  # 0 marks a free slot
        keys, slot = self._keys, key >> self._shift
        while (found := keys[slot]) and found != key:
            slot += 1
        return slot

    def _allocate(self, bits: int) -> None:
        self._bits, self._shift, self._most = bits, 64 - bits, int(FULL * 2**bits)
        self._keys = array("Q", bytes(8 * (2**bits + SLACK)))
        self._numbers = array("I", bytes(4 * (2**bits + SLACK)))

    def _grow(self) -> None:
        """Double the slots. Sorted keys are in the order of their homes, so no probing is needed."""
        keys, numbers = np.frombuffer(self._keys, dtype=np.uint64), np.frombuffer(self._numbers, dtype=np.uint32)
        taken = np.flatnonzero(keys)
        taken = taken[np.argsort(keys[taken])]
        keys, numbers = keys[taken], numbers[taken]
        self._allocate(self._bits + 1)
        rank = np.arange(len(keys))
        slots = np.maximum.accumulate((keys >> np.uint64(self._shift)).astype(np.int64) - rank) + rank
        np.frombuffer(self._keys, dtype=np.uint64)[slots] = keys
        np.frombuffer(self._numbers, dtype=np.uint32)[slots] = numbers
