"""Prepare the data of a run: read the pairs and the corpus, check them, and split them."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from multigrain.config import Config
from multigrain.data.beir import OWN
from multigrain.data.distinct_documents import Documents
from multigrain.data.held_out import split_by_share, split_by_source
from multigrain.data.positives_in_corpus import as_in_corpus
from multigrain.data.sources import Source, corpus_of, read_documents, read_source
from multigrain.errors import DataError
from multigrain.records import Candidate, Document, Pair, Split, folded, identity
from multigrain.terminal import say


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
    known: list[Pair] = field(default_factory=list)
    """All that the input says of what answers which query."""

    @property
    def other(self) -> list[Pair]:
        """The known pairs that are in neither part: what answers a query there is no negative of it either."""
        ids = {pair.id for pair in (*self.train, *self.held_out)}
        return list(telling_of(self.train, (pair for pair in self.known if pair.id not in ids)))


def telling_of(train: Iterable[Pair], known: Iterable[Pair]) -> Iterator[Pair]:
    """Yield the known pairs that say of a text that it is no negative of a training pair.

    They have the query or the group of one. Queries that are documents of the corpus stay all: see `OWN`.
    """
    queries: set[bytes] = set()
    groups: set[str | None] = set()
    for pair in train:
        queries.add(identity(pair.query))
        groups.add(pair.group)
    groups.discard(None)
    return (pair for pair in known if pair.source == OWN or pair.group in groups or identity(pair.query) in queries)


def prepare(config: Config) -> SplitData:
    """Read the pairs and the corpus that `[data]` names, and split them.

    Raises:
        DataError: see `read_source` and `read_documents`; or positives missing from the corpus; or nothing left.
        ConfigError: a source to hold out does not exist.
    """
    assert config.data.pairs is not None  # the configuration has checked it
    source, same = _set_apart(read_source(config.data.pairs), config.data.pairs)
    if corpus := corpus_of(config.data.pairs, config.data.corpus):
        source, count = as_in_corpus(source, corpus)
    pairs = source.pairs
    held_out = config.data.held_out
    if isinstance(held_out, list):
        train, test = split_by_source(pairs, held_out)
    else:
        train, test = split_by_share(pairs, held_out, config.seed)
    if config.data.limit is not None and len(train) > config.data.limit:
        kept = set(random.Random(config.seed).sample(range(len(train)), config.data.limit))
        train = [pair for index, pair in enumerate(train) if index in kept]
    sources = held_out if isinstance(held_out, list) else []
    unseen = [*test, *(pair for pair in same if pair.source in sources)]
    keys = frozenset(identity(pair.positive) for pair in unseen)
    if corpus:
        documents = Documents(partial(read_documents, corpus), keys, count)
    else:
        documents = _positives([*train, *same], test, keys, "train" if isinstance(held_out, list) else "both")
    return SplitData(train, test, documents, source.given, [*pairs, *same, *source.own])


def _set_apart(source: Source, where: str) -> tuple[Source, list[Pair]]:
    """Return the source without the pairs whose positive is the query, and those pairs, which teach nothing.

    Raises:
        DataError: no other pairs are left.
    """
    same = [pair for pair in source.pairs if _is_its_own_answer(pair)]
    ids = {pair.id for pair in same}
    pairs = [pair for pair in source.pairs if pair.id not in ids]
    if not pairs:
        raise DataError(where, "no pairs are left: in every pair the positive equals the query.")
    if same:
        say(f"  {len(same)} pairs are left out: the positive is the query itself (first: {same[0].id})")
    return replace(source, pairs=pairs, given=[given for given in source.given if given.pair_id not in ids]), same


def _is_its_own_answer(pair: Pair) -> bool:
    """Return whether the positive is the query; the first words tell most others apart, at a tenth of the cost."""
    if folded(_first_word(pair.query)) != folded(_first_word(pair.positive)):
        return False
    return folded(pair.query) == folded(pair.positive)


def _first_word(text: str) -> str:
    return "".join(text.split(None, 1)[:1])


def split_written(train: list[Pair], test: list[Pair] | None, config: Config | None = None) -> SplitData:
    """Split pairs that a language model wrote; their positives are the corpus. Without `test` a share is held out."""
    if test is None:
        assert config is not None and isinstance(config.data.held_out, float)
        train, test = split_by_share(train, config.data.held_out, config.seed)
    keys = frozenset(identity(pair.positive) for pair in test)
    return SplitData(train, test, _positives(train, test, keys, "both"))


def usable_negatives(split: SplitData) -> tuple[list[Candidate], int]:
    """Return the given negatives in the order of the training pairs, and how many are left out as held out."""
    held_out = {folded(text) for pair in split.held_out for text in (pair.query, pair.positive)}
    places = {pair.id: place for place, pair in enumerate(split.train)}
    given = [candidate for candidate in split.given if candidate.pair_id in places]
    given.sort(key=lambda candidate: places[candidate.pair_id])
    usable = [candidate for candidate in given if folded(candidate.text) not in held_out]
    return usable, len(given) - len(usable)


def _positives(train: list[Pair], test: list[Pair], held_out: frozenset[bytes], side: Split) -> Documents:
    """Return the positives as the corpus; `side` says who may look at those that are not held out."""

    def read() -> Iterator[Document]:
        for pair in train:
            yield Document(pair.id, pair.positive, side)
        for pair in test:
            yield Document(pair.id, pair.positive, "both")

    return Documents(read, held_out, len({identity(pair.positive) for pair in (*train, *test)}))
