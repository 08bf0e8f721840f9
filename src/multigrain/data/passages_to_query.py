"""The passages of a corpus that get queries (`synthesis.mode = "corpus"`)."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from multigrain.config import Config
from multigrain.data.distinct_documents import Documents, distinct_texts
from multigrain.data.held_out import require_groups
from multigrain.data.key_table import KeyTable, half
from multigrain.data.record_file import Keys, Numbers
from multigrain.data.sources import read_documents
from multigrain.data.unchanged import Unchanged
from multigrain.errors import DataError
from multigrain.records import Document

FEWEST_WORDS, FEWEST_CHARACTERS = 8, 40
"""Shortest passage that gets a query, by either measure; characters are for scripts without spaces."""


@dataclass(frozen=True)
class Passages:
    """The passages that get queries; held-out ones are marked. Each iteration reads them again.

    Args:
        documents: the corpus.
        parts: for each document, 1 if it gets a query, 2 if it also is held out, else 0.
    """

    documents: Documents
    parts: bytearray

    def __len__(self) -> int:
        return len(self.parts) - self.parts.count(0)

    def __iter__(self) -> Iterator[Document]:
        return (document for document, part in zip(self.documents, self.parts, strict=False) if part)


def sample_passages(config: Config) -> Passages:
    """Draw the passages that get queries in mode "corpus", by seed and text alone.

    `synthesis.limit` passages are for training; more are held out, in proportion to `data.held_out`.

    Raises:
        DataError: no passage has enough words for a query; see also `read_documents` and `require_groups`.
    """
    source, share = config.data.corpus, config.data.held_out
    assert source is not None and isinstance(share, int | float)  # the configuration has checked it
    unchanged = Unchanged(source)
    count, drawn, texts = _in_random_order(source, config.seed)
    if not len(drawn):
        raise DataError(
            source, f"none of its {count} passages has {FEWEST_WORDS} words; give passages long enough for a query."
        )
    limit = config.synthesis.limit if config.synthesis.limit is not None else len(drawn)
    wanted = min(len(drawn), round(limit / (1 - share)))
    held_out = round(share * wanted)
    parts = np.zeros(count, dtype=np.uint8)
    parts[drawn[:wanted]], parts[drawn[:held_out]] = 1, 2
    keys = KeyTable()
    for key in texts[:held_out].tolist():
        keys.add(key)
    documents = Documents(partial(read_documents, source), keys, count, unchanged.require)
    sampled = Passages(documents, bytearray(parts))
    trained = (passage for passage in sampled if passage.split != "held_out")
    require_groups(trained, wanted - held_out, "passages", source)
    return sampled


def _in_random_order(source: str, seed: int) -> tuple[int, Numbers, Keys]:
    """Return the number of passages, then the places and the `text_key` of the long enough ones in random order.

    The order depends on seed and text. Equal draws keep the order of the corpus.
    """
    count = 0
    draws, places, texts = array("Q"), array("q"), array("Q")
    salt = seed.to_bytes(16, "little")
    for place, (key, document) in enumerate(distinct_texts(read_documents(source, tell=True))):
        count += 1
        if len(document.text.split()) >= FEWEST_WORDS or len(document.text) >= FEWEST_CHARACTERS:
            draw = hashlib.blake2b(key, digest_size=8, salt=salt).digest()
            draws.append(int.from_bytes(draw, "big"))
            places.append(place)
            texts.append(half(key))
    order = np.argsort(np.asarray(draws), kind="stable")
    return count, np.asarray(places)[order], np.asarray(texts)[order]
