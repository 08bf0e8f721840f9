"""Prepare the data of a run: read the pairs and the corpus, check them, and split them."""

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from multigrain.config import Config
from multigrain.data.beir import OWN
from multigrain.data.distinct_documents import Documents
from multigrain.data.held_out import split_by_share, split_by_source
from multigrain.data.key_table import KeyTable, exact_key, text_key
from multigrain.data.positives_in_corpus import as_in_corpus
from multigrain.data.record_file import take
from multigrain.data.sources import Source, corpus_of, read_documents, read_source
from multigrain.data.unchanged import Unchanged
from multigrain.errors import DataError
from multigrain.records import Candidate, Document, Pair, Split, folded
from multigrain.terminal import say


@dataclass(frozen=True)
class SplitData:
    """A run's pairs and documents, and the negatives that came with the pairs.

    A held-out query is never trained on, and a held-out positive is never mined as a negative. Iterating
    reads the texts from files.
    """

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    documents: Documents
    given: Sequence[Candidate] = ()
    """Given negatives of all pairs, as read; see `usable_negatives`."""
    known: Iterable[Pair] = ()
    """All pairs of the input, in whatever part: they say which text answers which query."""
    dev: Sequence[Pair] = ()
    """The dev set: pairs on which choices are made, never trained on."""

    @property
    def other(self) -> Iterator[Pair]:
        """The known pairs that are in no part; their positives cannot be negatives of the same query either."""
        ids = _ids(chain(self.train, self.held_out, self.dev))
        return telling_of(self.train, (pair for pair in self.known if exact_key(pair.id) not in ids))


def telling_of(train: Iterable[Pair], known: Iterable[Pair]) -> Iterator[Pair]:
    """Yield the known pairs that bar a text as a negative of a training pair.

    These share the query or the group of a training pair. All pairs with the source `OWN` are kept too.
    """
    queries, groups = KeyTable(), KeyTable()
    for pair in train:
        queries.add(text_key(pair.query))
        if pair.group is not None:
            groups.add(exact_key(pair.group))
    for pair in known:
        is_of_group = pair.group is not None and exact_key(pair.group) in groups
        if pair.source == OWN or is_of_group or text_key(pair.query) in queries:
            yield pair


@dataclass(frozen=True)
class _Chained:
    """Several sequences of pairs, one after another."""

    parts: tuple[Sequence[Pair], ...]

    def __iter__(self) -> Iterator[Pair]:
        return chain.from_iterable(self.parts)


def prepare(config: Config) -> SplitData:
    """Read the pairs and the corpus that `[data]` names, and split them.

    Raises:
        DataError: positives are missing from the corpus, or no pairs are left; see also `read_source` and
            `read_documents`.
        ConfigError: a source to hold out does not exist.
    """
    assert config.data.pairs is not None  # the configuration has checked it
    folder = config.folder if config.folder.is_dir() else None
    corpus = corpus_of(config.data.pairs, config.data.corpus)
    unchanged = Unchanged(config.data.pairs, corpus)
    source, same = _set_apart(read_source(config.data.pairs, folder), config.data.pairs)
    if corpus:
        source, count = as_in_corpus(source, corpus, folder)
    train, test = _split(source.pairs, config)
    held_out = config.data.held_out
    sources = held_out if isinstance(held_out, list) else []
    unseen = chain(test, (pair for pair in same if pair.source in sources))
    keys = _keys(pair.positive for pair in unseen)
    if corpus:
        documents = Documents(partial(read_documents, corpus), keys, count, unchanged.require)
    else:
        side: Split = "train" if isinstance(held_out, list) else "both"
        documents = _positives(_Chained((train, same)), test, keys, side)
    unchanged.require()
    return SplitData(train, test, documents, source.given, _Chained((source.pairs, same, source.own)))


def _split(pairs: Sequence[Pair], config: Config) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the training pairs and the held-out pairs, as `[data]` configures them."""
    held_out, limit = config.data.held_out, config.data.limit
    if isinstance(held_out, list):
        train, test = split_by_source(pairs, held_out)
    else:
        train, test = split_by_share(pairs, held_out, config.seed)
    if limit is not None and len(train) > limit:
        train = take(train, sorted(random.Random(config.seed).sample(range(len(train)), limit)))
    return train, test


def _set_apart(source: Source, where: str) -> tuple[Source, Sequence[Pair]]:
    """Separate the pairs whose positive is the query, which teach nothing; return the rest, and these pairs.

    Raises:
        DataError: no other pairs are left.
    """
    says_nothing = np.array([_is_its_own_answer(pair) for pair in source.pairs], dtype=bool)
    same = take(source.pairs, says_nothing)
    if len(same) == len(source.pairs):
        raise DataError(where, "no pairs are left: in every pair the positive equals the query.")
    if not same:
        return source, same
    say(f"  {len(same)} pairs are left out: the positive is the query itself (first: {same[0].id})")
    ids = _ids(same)
    of_others = np.array([exact_key(given.pair_id) not in ids for given in source.given], dtype=bool)
    return replace(source, pairs=take(source.pairs, ~says_nothing), given=take(source.given, of_others)), same


def _is_its_own_answer(pair: Pair) -> bool:
    """Return whether the positive is the query. The first words rule out most pairs at a tenth of the cost."""
    if folded(_first_word(pair.query)) != folded(_first_word(pair.positive)):
        return False
    return folded(pair.query) == folded(pair.positive)


def _first_word(text: str) -> str:
    return "".join(text.split(None, 1)[:1])


def split_written(train: Sequence[Pair], test: Sequence[Pair] | None, config: Config | None = None) -> SplitData:
    """Split pairs that a language model wrote; their positives are the corpus. Without `test`, hold out a share."""
    if test is None:
        assert config is not None and isinstance(config.data.held_out, float)
        train, test = split_by_share(train, config.data.held_out, config.seed)
    return SplitData(train, test, _positives(train, test, _keys(pair.positive for pair in test), "both"))


def usable_negatives(split: SplitData) -> tuple[Sequence[Candidate], int]:
    """Return the given negatives in the order of the training pairs, and the number left out as held-out texts."""
    held_out = _keys(text for pair in split.held_out for text in (pair.query, pair.positive))
    numbers = KeyTable()
    for number, pair in enumerate(split.train):
        numbers.setdefault(exact_key(pair.id), number)
    places, pairs = array("q"), array("q")
    left_out = 0
    for place, candidate in enumerate(split.given):
        pair_number = numbers.get(exact_key(candidate.pair_id))
        if pair_number is None:
            continue
        if text_key(candidate.text) in held_out:
            left_out += 1
        else:
            places.append(place)
            pairs.append(pair_number)
    order = np.argsort(np.asarray(pairs), kind="stable")
    return take(split.given, np.asarray(places)[order]), left_out


def _positives(train: Iterable[Pair], test: Iterable[Pair], held_out: KeyTable, side: Split) -> Documents:
    """Return the positives as the corpus; `side` is the split of training positives that are not held out."""

    def read() -> Iterator[Document]:
        for pair in train:
            yield Document(pair.id, pair.positive, side)
        for pair in test:
            yield Document(pair.id, pair.positive, "both")

    return Documents(read, held_out, len(_keys(document.text for document in read())))


def _keys(texts: Iterable[str]) -> KeyTable:
    keys = KeyTable()
    for text in texts:
        keys.add(text_key(text))
    return keys


def _ids(pairs: Iterable[Pair]) -> KeyTable:
    ids = KeyTable()
    for pair in pairs:
        ids.add(exact_key(pair.id))
    return ids
