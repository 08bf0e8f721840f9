"""Prepare a run's data: read, check, split into training and held-out parts."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from multigrain.config import Config
from multigrain.data.sources import PYTHON_DOCS, beir_parts, read_documents, read_source
from multigrain.errors import ConfigError, DataError
from multigrain.records import Candidate, Document, Pair, Split, folded, identity

FEWEST_WORDS, FEWEST_CHARACTERS = 8, 40
"""Of a passage that can get a query; characters count in scripts without spaces."""


@dataclass(frozen=True)
class Documents:
    """The corpus: each distinct text once, marked by who may look at it.

    It may be larger than the memory: the texts are read anew whenever it is iterated, and only 16 bytes of each are
    kept meanwhile.
    """

    read: Callable[[], Iterable[Document]]
    held_out: frozenset[bytes]
    """The `identity` of the texts that are held out."""
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Document]:
        for key, document in _distinct(self.read()):
            yield replace(document, split="held_out") if key in self.held_out else document


@dataclass(frozen=True)
class SplitData:
    """A run's pairs and documents, and the negatives that came with the pairs.

    A held-out query is never trained on, and a held-out positive is never mined as a negative.
    """

    train: list[Pair]
    held_out: list[Pair]
    documents: Documents
    given: list[Candidate] = field(default_factory=list)
    """As read, for all pairs: see `usable_negatives`."""


def prepare(config: Config) -> SplitData:
    """Read the pairs and the corpus that `[data]` names, and split them.

    Raises:
        DataError: see `read_source` and `read_documents`; or positives missing from the corpus; or nothing left.
        ConfigError: a source to hold out does not exist.
    """
    assert config.data.pairs is not None  # the configuration has checked it
    source = read_source(config.data.pairs)
    pairs = [pair for pair in source.pairs if folded(pair.query) != folded(pair.positive)]
    if not pairs:
        raise DataError(config.data.pairs, "no pairs are left: in every pair the positive equals the query.")
    held_out = config.data.held_out
    if isinstance(held_out, list):
        train, test = split_by_source(pairs, held_out)
    else:
        train, test = split_by_share(pairs, held_out, config.seed)
    if config.data.limit is not None and len(train) > config.data.limit:
        kept = set(random.Random(config.seed).sample(range(len(train)), config.data.limit))
        train = [pair for index, pair in enumerate(train) if index in kept]
    return SplitData(train, test, _documents(config, train, test), source.given)


def split_written(train: list[Pair], test: list[Pair] | None, config: Config | None = None) -> SplitData:
    """Pairs that a language model wrote, with their positives as the corpus; without `test` a share is held out."""
    if test is None:
        assert config is not None and isinstance(config.data.held_out, float)
        train, test = split_by_share(train, config.data.held_out, config.seed)
    positives = [*train, *test]

    def read() -> Iterator[Document]:
        return (Document(pair.id, pair.positive) for pair in positives)

    count = sum(1 for _ in _distinct(read()))
    return SplitData(train, test, Documents(read, frozenset(identity(pair.positive) for pair in test), count))


@dataclass(frozen=True)
class Passages:
    """The corpus, and the passages that get queries; those that are held out say so."""

    passages: list[Document]
    documents: Documents


def sample_passages(config: Config) -> Passages:
    """Mode "corpus": draw the passages that get queries, by seed, text and nothing else.

    `synthesis.limit` passages are for training, and in proportion to `data.held_out` some more are held out.

    Raises:
        DataError: see `read_documents`; or no passage has enough words for a query.
    """
    source, share = config.data.corpus, config.data.held_out
    assert source is not None and isinstance(share, int | float)  # the configuration has checked it
    count = 0
    fit: list[tuple[bytes, int]] = []
    for place, (key, document) in enumerate(_distinct(read_documents(source))):
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
    for place, (key, document) in enumerate(_distinct(read_documents(source))):
        if place in places:
            passages.append(replace(document, split="held_out") if place in held_out else document)
            if place in held_out:
                keys.add(key)
    return Passages(passages, Documents(lambda: read_documents(source), frozenset(keys), count))


def usable_negatives(split: SplitData) -> tuple[list[Candidate], int]:
    """The given negatives of the training pairs; and how many must not be used, because their text is held out."""
    held_out = {folded(text) for pair in split.held_out for text in (pair.query, pair.positive)}
    ids = {pair.id for pair in split.train}
    given = [candidate for candidate in split.given if candidate.pair_id in ids]
    usable = [candidate for candidate in given if folded(candidate.text) not in held_out]
    return usable, len(given) - len(usable)


def split_by_share(pairs: list[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Hold out about `share` of the pairs. Pairs that share a query or a positive stay on one side.

    Raises:
        DataError: no pair is left to train on.
    """
    groups = _connected(pairs)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    held_out: set[str] = set()
    for group in order:
        if len(held_out) + len(groups[group]) <= share * len(pairs):
            held_out.update(groups[group])
    train = [pair for pair in pairs if pair.id not in held_out]
    if not train:
        raise DataError("[data]", "no pairs are left to train on.")
    return train, [pair for pair in pairs if pair.id in held_out]


def _connected(pairs: list[Pair]) -> dict[int, list[str]]:
    """Ids of the pairs, grouped so that a query or a positive lies wholly in one group."""
    parent = list(range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, pair in enumerate(pairs):
        for key in (("query", folded(pair.query)), ("positive", folded(pair.positive))):
            parent[root(index)] = root(first.setdefault(key, index))
    groups: dict[int, list[str]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(root(index), []).append(pair.id)
    return groups


def split_by_source(pairs: list[Pair], sources: list[str]) -> tuple[list[Pair], list[Pair]]:
    """Hold out whole sources.

    Raises:
        ConfigError: a source is not there, or none is left to train on.
        DataError: a query of theirs stands in another source too.
    """
    present = {pair.source for pair in pairs}
    if unknown := [source for source in sources if source not in present]:
        known = ", ".join(sorted(name for name in present if name)) or "none (the pairs carry no source)"
        raise ConfigError("data.held_out", [f"no pairs with source {', '.join(unknown)}; sources found: {known}"])
    test = [pair for pair in pairs if pair.source in sources]
    train = [pair for pair in pairs if pair.source not in sources]
    if not train:
        raise ConfigError("data.held_out", ["every source is held out; nothing is left to train on"])
    queries = {folded(pair.query): pair for pair in test}
    leaks = [(queries[folded(pair.query)], pair) for pair in train if folded(pair.query) in queries]
    if leaks:
        held_out, trained = leaks[0]
        raise DataError(
            "data.held_out",
            f"{len(leaks)} held-out queries are also in training (first: {held_out.query!r}, pair {held_out.id} of "
            f"{held_out.source} and pair {trained.id} of {trained.source}). Take them out of one of the sources.",
        )
    positives = {folded(pair.positive) for pair in test}
    return [pair for pair in train if folded(pair.positive) not in positives], test


def _documents(config: Config, train: list[Pair], test: list[Pair]) -> Documents:
    """The corpus: the file's, or the positives."""
    source = config.data.corpus
    assert config.data.pairs is not None
    if source is None and config.data.pairs.startswith("beir:"):
        source = f"beir:{beir_parts(config.data.pairs)[0]}"
    if source == PYTHON_DOCS:
        raise ConfigError("data.corpus", ["python-docs brings its own corpus; leave the key out"])
    side: Split = "train" if isinstance(config.data.held_out, list) else "both"

    def read() -> Iterator[Document]:
        if source is not None:
            return read_documents(source)
        return (Document(p.id, p.positive, s) for pairs, s in ((train, side), (test, "both")) for p in pairs)

    wanted = {identity(pair.positive) for pair in train + test}
    held_out = frozenset(identity(pair.positive) for pair in test)
    if source is None:  # the corpus is these very texts
        return Documents(read, held_out, len(wanted))
    count = 0
    for count, (key, _) in enumerate(_distinct(read()), start=1):  # noqa: B007
        wanted.discard(key)
    if missing := [pair.id for pair in train + test if identity(pair.positive) in wanted]:
        raise DataError(
            source,
            f"the positives of {len(missing)} pairs are not in the corpus (first: {', '.join(missing[:3])}). "
            "Add them to the corpus, word for word, or leave data.corpus out.",
        )
    return Documents(read, held_out, count)


def _distinct(documents: Iterable[Document]) -> Iterator[tuple[bytes, Document]]:
    """(identity, document) of each text once; ids that different texts share are told apart by a number."""
    texts: set[bytes] = set()
    ids: set[str] = set()
    for document in documents:
        key = identity(document.text)
        if key in texts:
            continue
        unique = document if document.id not in ids else replace(document, id=f"{document.id}#{len(texts)}")
        ids.add(unique.id)
        texts.add(key)
        yield key, unique
