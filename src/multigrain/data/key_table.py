"""Numbers by key, for millions of keys: what a dict does, in a tenth of its memory."""

import hashlib
from array import array

import numpy as np

from multigrain.records import identity

FIRST_BITS = 10
"""Logarithm of the slots of an empty table."""
FULL = 0.6
"""Share of the slots that may be taken."""
SLACK = 1024
"""Slots behind the last home, for the keys that are pushed beyond it."""


def text_key(text: str) -> int:
    """Return half of the `identity` of a text as a number: two of a billion texts share it once in forty trials."""
    return half(identity(text))


def half(identity: bytes) -> int:
    """Return the `text_key` of a text, from its identity."""
    return int.from_bytes(identity[:8], "big")


def exact_key(*parts: str) -> int:
    """Return 8 bytes as a number that stand for these very texts in this order."""
    text = parts[0] if len(parts) == 1 else "".join([f"{len(part)} {part}" for part in parts])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class KeyTable:
    """Numbers below 2^32 by keys of 64 random bits, which are digests of texts.

    A hash table with linear probing: the home of a key are its first bits, and the key stands in the first free slot
    from there on. A key takes 20 to 40 bytes, where a dict with keys of 16 bytes takes 150.
    """

    def __init__(self) -> None:
        self._count = 0
        self._allocate(FIRST_BITS)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return self._keys[self._slot(key)] != 0

    def get(self, key: int) -> int | None:
        """Return the number of the key, or None where it has none."""
        slot = self._slot(key)
        return self._numbers[slot] if self._keys[slot] else None

    def setdefault(self, key: int, number: int) -> int:
        """Return the number of the key; where it has none, it gets this one."""
        slot = self._slot(key)
        if self._keys[slot]:
            return self._numbers[slot]
        self._keys[slot], self._numbers[slot] = key or 1, number
        self._count += 1
        if self._count > self._most:
            self._grow()
        return number

    def add(self, key: int) -> bool:
        """Take the key in; return whether it is new."""
        before = self._count
        self.setdefault(key, 0)
        return self._count > before

    def _slot(self, key: int) -> int:
        """Return the slot of the key, or the free one in which it would stand."""
        key = key or 1  # 0 says that a slot is free
        keys, slot = self._keys, key >> self._shift
        while (found := keys[slot]) and found != key:
            slot += 1
        return slot

    def _allocate(self, bits: int) -> None:
        self._bits, self._shift, self._most = bits, 64 - bits, int(FULL * 2**bits)
        self._keys = array("Q", bytes(8 * (2**bits + SLACK)))
        self._numbers = array("I", bytes(4 * (2**bits + SLACK)))

    def _grow(self) -> None:
        """Double the slots. In the order of the keys, which is that of their homes, none has to look for a free one."""
        keys, numbers = np.frombuffer(self._keys, dtype=np.uint64), np.frombuffer(self._numbers, dtype=np.uint32)
        taken = np.flatnonzero(keys)
        taken = taken[np.argsort(keys[taken])]
        keys, numbers = keys[taken], numbers[taken]
        self._allocate(self._bits + 1)
        rank = np.arange(len(keys))
        slots = np.maximum.accumulate((keys >> np.uint64(self._shift)).astype(np.int64) - rank) + rank
        np.frombuffer(self._keys, dtype=np.uint64)[slots] = keys
        np.frombuffer(self._numbers, dtype=np.uint32)[slots] = numbers
