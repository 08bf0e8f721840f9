"""Find documents that say the same as the query, the positive, or another negative of the tuple.

`multigrain.grading.candidate_rules.likeness` defines which texts say the same, but takes a millisecond. So each text
gets a *signature* of a few numbers once, and two texts are compared only if their signatures allow it:

    nine of ten characters match                -> the lengths must be similar
    each word of one text is in the other       -> the Bloom filter of its longer words is part of the other's

Letters: P pairs, T texts of a pair (the query, the positive, text candidates, documents).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.data.words import UNSPACED, words_of
from multigrain.grading.candidate_rules import COMPARED, NEAR_COPY, likeness
from multigrain.records import folded

MOST_BYTES = 2**26
"""Approximate bytes of cached texts above which all are forgotten."""
OVERHEAD = 500
"""Bytes for each text beside its characters, for signature and lookup."""
LONG_WORD = 5
"""Minimum number of letters of a word in the filter: shorter words are in nearly every text."""

Numbers = NDArray[np.integer[Any]]
FILTER = 16
"""64-bit numbers of a filter."""
SIGNATURE = np.dtype([("same", "i8"), ("characters", "i4"), ("words", "i4"), ("filter", "u8", (FILTER,))])
"""What rules out that two texts are copies: a hash of the folded text, its number of characters (at most `COMPARED`),
its number of words, and a filter."""


def signatures(texts: Sequence[str]) -> NDArray[np.void]:
    """Return the `SIGNATURE` of each text, (texts,); hashes are valid in this process only."""
    made = np.empty(len(texts), dtype=SIGNATURE)
    filters = []
    for place, text in enumerate(texts):
        compared = folded(text)
        words = words_of(compared)
        bits = 0
        for word in set(words):
            if len(word) >= LONG_WORD or UNSPACED.match(word):
                bits |= 1 << hash(word) % (64 * FILTER)
        filters.append(bits.to_bytes(8 * FILTER, "little"))
        row = made[place]
        row["same"], row["characters"], row["words"] = hash(compared), min(len(compared), COMPARED), len(words)
    made["filter"] = np.frombuffer(b"".join(filters), dtype="<u8").reshape(-1, FILTER)
    return made


class Signatures:
    """The signatures of texts and documents, computed once for each distinct text while memory allows.

    Args:
        texts_of: returns the texts of documents by their numbers.
    """

    def __init__(self, texts_of: Callable[[Sequence[int]], Sequence[str]]) -> None:
        self._texts_of = texts_of
        self._forget()

    def _forget(self) -> None:
        self.known = np.empty(0, SIGNATURE)
        self.texts: list[str] = []
        self._of_text: dict[str, int] = {}
        self._of_document: dict[int, int] = {}
        self._bytes = 0
        self.compared: dict[tuple[int, int], float | None] = {}

    def make_room(self) -> None:
        """Forget all texts if they take too much memory; numbers returned before become invalid."""
        if self._bytes > MOST_BYTES:
            self._forget()

    def add(self, texts: Sequence[str]) -> Numbers:
        """Return the numbers, (texts,), under which `known` holds the signatures and `texts` the texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._of_text]
        self._of_text |= {text: number for number, text in enumerate(new, start=len(self.texts))}
        self.texts += new
        self._bytes += sum(map(len, new)) + OVERHEAD * len(new)
        self.known = np.concatenate([self.known, signatures(new)]) if new else self.known
        return np.array([self._of_text[text] for text in texts], dtype=np.int64)

    def add_documents(self, documents: Numbers) -> Numbers:
        """Return the same for documents, (documents,)."""
        distinct = np.unique(documents).tolist()
        new = [document for document in distinct if document not in self._of_document]
        if new:
            self._of_document.update(zip(new, self.add(self._texts_of(new)).tolist(), strict=True))
        numbers = np.array([self._of_document[document] for document in distinct], dtype=np.int64)
        return numbers[np.searchsorted(distinct, documents)] if distinct else numbers


class Copy(NamedTuple):
    """A text that says the same as an earlier one."""

    pair: int
    place: int
    """The place of the copy among the texts of the pair."""
    original: int
    value: float
    """The share of matching characters."""


def find_copies(texts: Numbers, known: Signatures, first: Numbers) -> list[Copy]:
    """Find the texts that say the same as an earlier one that is not a copy itself; list each once.

    Args:
        texts: (P, T) numbers of the texts of each pair, in order; -1 after the last.
        known: the texts and their signatures.
        first: (P,) the first place at which a text may be a copy; earlier texts are never reported.
    """
    found: list[Copy] = []
    copies: set[tuple[int, int]] = set()
    for pair, place, original in _possible(texts, known.known, first):
        if (pair, place) in copies or (pair, original) in copies:
            continue
        numbers = int(texts[pair, place]), int(texts[pair, original])
        if numbers not in known.compared:
            known.compared[numbers] = likeness(*(known.texts[number] for number in numbers))
        value = known.compared[numbers]
        if value is not None:
            copies.add((pair, place))
            found.append(Copy(pair, place, original, value))
    return found


def _possible(texts: Numbers, known: NDArray[np.void], first: Numbers) -> Sequence[tuple[int, int, int]]:
    """Return (pair, place, earlier place) of all possible copies by their signatures, in this order."""
    is_there = texts >= 0
    own = {name: known[name][np.maximum(texts, 0)] for name in ("same", "characters", "words")}
    places = np.arange(texts.shape[1])
    both = is_there[:, :, None] & is_there[:, None, :] & (places[None, None, :] < places[None, :, None])
    both &= (places[None, :] >= first[:, None])[:, :, None]
    characters, same = own["characters"], own["same"]
    shorter = np.minimum(characters[:, :, None], characters[:, None, :])
    # Allow for the rounding to four digits in `likeness`.
    both &= 2 * shorter >= (NEAR_COPY - 1e-4) * (characters[:, :, None] + characters[:, None, :])
    pair, place, before = np.nonzero(both)
    for number in range(FILTER):
        filters = known["filter"][:, number][np.maximum(texts, 0)]
        left, right = filters[pair, place], filters[pair, before]
        words = own["words"][pair, place], own["words"][pair, before]
        inside = ((left & ~right) == 0) & (words[0] <= words[1])
        around = ((right & ~left) == 0) & (words[1] <= words[0])
        kept = inside | around | (same[pair, place] == same[pair, before])
        pair, place, before = pair[kept], place[kept], before[kept]
    return list(zip(pair.tolist(), place.tolist(), before.tolist(), strict=True))
