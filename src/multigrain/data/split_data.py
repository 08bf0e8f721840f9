"""Prepare the data of a run: read the pairs and the corpus, check them, and split them."""

import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from multigrain.config import Config, SourceSection
from multigrain.data.beir import OWN
from multigrain.data.distinct_documents import Documents, JoinedDocuments
from multigrain.data.held_out import numbers_by_source, split_by_share, split_by_source, without_near, without_texts_of
from multigrain.data.hub_datasets import HUB, commit_of, hub_files
from multigrain.data.key_table import KeyTable, exact_key, text_key
from multigrain.data.named_source import named, named_documents, named_source
from multigrain.data.positives_in_corpus import as_in_corpus
from multigrain.data.record_file import Changed, Joined, Numbers, take
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
    documents: Documents | JoinedDocuments
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

    def knowing(self, pairs: Sequence[Pair]) -> "SplitData":
        """Return the data with more known pairs."""
        return replace(self, known=_Chained((self.known, pairs)))


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
    """Several collections of pairs, one after another; each iteration reads them again."""

    parts: tuple[Iterable[Pair], ...]

    def __iter__(self) -> Iterator[Pair]:
        return chain.from_iterable(self.parts)


def prepare(config: Config) -> SplitData:
    """Read the pairs and the corpus that `[data]` names, and split them.

    Raises:
        DataError: positives are missing from the corpus, or no pairs are left; see also `read_source` and
            `read_documents`.
        ConfigError: a source to hold out does not exist.
    """
    folder = config.folder if config.folder.is_dir() else None
    if config.data.sources:
        return _prepare_several(config, folder)
    assert config.data.pairs is not None  # the configuration has checked it
    read = _read(config.data.pairs, config.data.corpus, folder)
    train, test = _split(read.source.pairs, config)
    keys = _unseen(test, read.same, config)
    side: Split = "train" if isinstance(config.data.held_out, list) else "both"
    documents = read.documents(train, test, keys, side)
    read.unchanged.require()
    return SplitData(train, test, documents, read.source.given, read.known)


@dataclass(frozen=True)
class _Read:
    """A source as read: pairs with the titles of the corpus, and the corpus."""

    source: Source
    same: Sequence[Pair]
    """Pairs whose positive is the query."""
    corpus: str | None
    """The source of the corpus; if None, it consists of the positives."""
    texts: KeyTable
    """The `text_key` of each text of the corpus; empty if it consists of the positives."""
    unchanged: Unchanged
    name: str | None = None
    """The name, if it is one of several sources."""

    @property
    def known(self) -> _Chained:
        """All pairs of the source."""
        return _Chained((self.source.pairs, self.same, self.source.own))

    def documents(self, train: Sequence[Pair], test: Sequence[Pair], held_out: KeyTable, side: Split) -> Documents:
        """Return the corpus; `side` is the split of training positives that are not held out."""
        if self.corpus:
            return Documents(self._read_corpus, held_out, len(self.texts), self.unchanged.require)
        return _positives(_Chained((train, self.same)), test, held_out, side)

    def named(self, section: SourceSection) -> "_Read":
        """Return it as one of several sources."""
        same = Changed(self.same, partial(named, section=section))
        return replace(self, source=named_source(self.source, section), same=same, name=section.name)

    def _read_corpus(self) -> Iterator[Document]:
        assert self.corpus is not None
        documents = read_documents(self.corpus)
        return documents if self.name is None else named_documents(documents, self.name)


def _read(pairs: str, corpus: str | None, folder: Path | None) -> _Read:
    corpus = corpus_of(pairs, corpus)
    _tell_commits(pairs, corpus)
    unchanged = Unchanged(pairs, corpus)
    source, same = _set_apart(read_source(pairs, folder), pairs)
    texts = KeyTable()
    if corpus:
        source, texts = as_in_corpus(source, corpus, folder)
    return _Read(source, same, corpus, texts, unchanged)


def _tell_commits(*sources: str | None) -> None:
    """Report the commit of each source that is a dataset of the hub."""
    for source in dict.fromkeys(sources):
        if source is not None and source.startswith(HUB) and (commit := commit_of(hub_files(source))):
            say(f"  {source} is read at its commit {commit}")


def _prepare_several(config: Config, folder: Path | None) -> SplitData:
    """Read several sources and join them; each gives its share of the held-out pairs, and keeps its own corpus."""
    parts: dict[str, _Read] = {}
    for section in config.data.sources:
        try:
            assert section.pairs is not None  # the configuration has checked it, or the pairs are written
            parts[section.name] = _read(section.pairs, section.corpus, folder).named(section)
        except DataError as error:
            raise DataError(f"source {section.name}", str(error)) from None
    names, known = list(parts), _Chained(tuple(part.known for part in parts.values()))
    train, test = _split_each({name: part.source.pairs for name, part in parts.items()}, config)
    keys = _unseen(test, _Chained(tuple(part.same for part in parts.values())), config)
    corpora: dict[str, Documents] = {}
    texts: dict[str, KeyTable] = {}
    trained, held_out = numbers_by_source(train, names), numbers_by_source(test, names)
    for section, own, unseen in zip(config.data.sources, trained, held_out, strict=True):
        name, part = section.name, parts[section.name]
        searched = part.source.pairs if section.weight == 0 else take(train, own)
        corpora[name] = part.documents(searched, take(test, unseen), keys, "both")
        texts[name] = part.texts if part.corpus else _keys(document.text for document in corpora[name])
        part.unchanged.require()
    given = Joined([part.source.given for part in parts.values()])
    return SplitData(train, test, JoinedDocuments(corpora, texts), given, known)


def _split_each(parts: Mapping[str, Sequence[Pair]], config: Config) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the training pairs and the held-out pairs of several sources, without texts that are in both.

    A source of weight 0 has no training pairs, so that nothing is written, mined or graded for it. A query that is on
    both sides is an error only if all pairs are given: written pairs cannot be changed.
    """
    share, sections = config.data.held_out, config.data.sources
    trained = [source.name for source in config.data.trained_sources]
    if isinstance(share, list) and not config.data.written_sources:
        used = Joined([parts[name] for name in parts if name in [*trained, *share]])
        train, test = split_by_source(used, share, tells=False)
    else:
        halves = {name: _halves(name, part, config) for name, part in parts.items()}
        test = Joined([held_out for _, held_out in halves.values()])
        train = without_texts_of(Joined([halves[name][0] for name in trained]), test, "the held-out pairs")
    train = without_near(train, test, config.data.source_names)
    numbers = numbers_by_source(train, config.data.source_names)
    kept = [_drawn(own, section.limit, config.seed) for own, section in zip(numbers, sections, strict=True)]
    return take(train, np.concatenate(kept)), test


def _halves(name: str, pairs: Sequence[Pair], config: Config) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the training pairs and the held-out pairs of one of several sources."""
    share = config.data.held_out
    if isinstance(share, list):
        return ((), pairs) if name in share else (pairs, ())
    is_trained = name in [source.name for source in config.data.trained_sources]
    return split_by_share(pairs, share, config.seed, tells=is_trained)


def _drawn(numbers: Numbers, limit: int | None, seed: int) -> Numbers:
    """Return the numbers, or as many of them as the limit allows, in ascending order."""
    if limit is None or len(numbers) <= limit:
        return numbers
    chosen: Numbers = numbers[sorted(random.Random(seed).sample(range(len(numbers)), limit))]
    return chosen


def _unseen(test: Iterable[Pair], same: Iterable[Pair], config: Config) -> KeyTable:
    """Return the `text_key` of each text that must not be mined: the positives of held-out pairs and sources."""
    sources = config.data.held_out if isinstance(config.data.held_out, list) else []
    return _keys(pair.positive for pair in chain(test, (pair for pair in same if pair.source in sources)))


def _split(pairs: Sequence[Pair], config: Config) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the training pairs and the held-out pairs, as `[data]` configures them."""
    held_out, limit = config.data.held_out, config.data.limit
    if isinstance(held_out, list):
        train, test = split_by_source(pairs, held_out)
    else:
        train, test = split_by_share(pairs, held_out, config.seed)
    return take(train, _drawn(np.arange(len(train)), limit, config.seed)), test


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
