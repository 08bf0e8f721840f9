"""The passages of a corpus that get queries (`synthesis.mode = "corpus"`)."""

import hashlib
from dataclasses import dataclass, replace

from multigrain.config import Config
from multigrain.data.distinct_documents import Documents, distinct_texts
from multigrain.data.held_out import require_groups
from multigrain.data.sources import read_documents
from multigrain.errors import DataError
from multigrain.records import Document

FEWEST_WORDS, FEWEST_CHARACTERS = 8, 40
"""Length from which on a passage gets a query, by either measure; characters count in scripts without spaces."""


@dataclass(frozen=True)
class Passages:
    """The corpus, and the passages that get queries; those that are held out say so."""

    passages: list[Document]
    documents: Documents


def sample_passages(config: Config) -> Passages:
    """Mode "corpus": draw the passages that get queries, by seed, text and nothing else.

    `synthesis.limit` passages are for training, and in proportion to `data.held_out` some more are held out.

    Raises:
        DataError: see `read_documents` and `require_groups`; or no passage has enough words for a query.
    """
    source, share = config.data.corpus, config.data.held_out
    assert source is not None and isinstance(share, int | float)  # the configuration has checked it
    count = 0
    fit: list[tuple[bytes, int]] = []
    for place, (key, document) in enumerate(distinct_texts(read_documents(source, tell=True))):
        count += 1
        if len(document.text.split()) >= FEWEST_WORDS or len(document.text) >= FEWEST_CHARACTERS:
            draw = hashlib.blake2b(key, digest_size=8, salt=config.seed.to_bytes(16, "little")).digest()
            fit.append((draw, place))
    if not fit:
        raise DataError(
            source, f"none of its {count} passages has {FEWEST_WORDS} words; nothing can be asked about them."
        )
    limit = config.synthesis.limit if config.synthesis.limit is not None else len(fit)
    wanted = min(len(fit), round(limit / (1 - share)))
    drawn = sorted(fit)[:wanted]
    held_out = {place for _, place in drawn[: round(share * wanted)]}
    places = {place for _, place in drawn}
    passages, keys = [], set()
    for place, (key, document) in enumerate(distinct_texts(read_documents(source))):
        if place in places:
            passages.append(replace(document, split="held_out") if place in held_out else document)
            if place in held_out:
                keys.add(key)
    require_groups([passage for passage in passages if passage.split != "held_out"], "passages", source)
    return Passages(passages, Documents(lambda: read_documents(source), frozenset(keys), count))
