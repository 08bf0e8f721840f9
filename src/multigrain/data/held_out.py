"""Prepare a run's data: read, check, split into training and held-out parts."""

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

from multigrain.config import Config
from multigrain.data.matching import as_in_corpus
from multigrain.data.sources import Source, corpus_of, read_documents, read_source
from multigrain.errors import ConfigError, DataError
from multigrain.progress import say
from multigrain.records import Candidate, Document, Pair, Split, folded, identity

FEWEST_WORDS, FEWEST_CHARACTERS = 8, 40
"""Of a passage that can get a query; characters count in scripts without spaces."""
ADDED = 0.1
"""Share of a query's characters that another one may have besides and nearly equal it."""
LARGEST_CHAIN = 100
"""Pairs that are kept together because of queries that nearly equal each other; more are made by a template."""
SHOWN = 80
"""Characters of a text in a message."""
MARKS = ".,;:!?\"'`()[]{}\u2026\u3001\u3002\u00bf\u00a1\u061f\u201c\u201d\u2018\u2019\u00ab\u00bb-"
"""What stands around words; signs such as + and # are part of them."""


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
    known: list[Pair] = field(default_factory=list)
    """All that the input says of what answers which query."""

    @property
    def other(self) -> list[Pair]:
        """The known pairs that are in neither part: what answers a query there is no negative of it either."""
        ids = {pair.id for pair in (*self.train, *self.held_out)}
        return [pair for pair in self.known if pair.id not in ids]


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
    keys = frozenset(identity(p.positive) for p in (*test, *(p for p in same if p.source in sources)))
    if corpus:
        documents = Documents(partial(read_documents, corpus), keys, count)
    else:
        documents = _positives([*train, *same], test, keys, "train" if isinstance(held_out, list) else "both")
    return SplitData(train, test, documents, source.given, [*pairs, *same, *source.own])


def _set_apart(source: Source, where: str) -> tuple[Source, list[Pair]]:
    """The source without the pairs whose positive is the query, from which nothing can be learnt; and those pairs.

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
    """Whether the positive is the query; the first words tell most others apart, at a tenth of the cost."""
    first, other = (text.split(None, 1)[:1] for text in (pair.query, pair.positive))
    return folded("".join(first)) == folded("".join(other)) and folded(pair.query) == folded(pair.positive)


def split_written(train: list[Pair], test: list[Pair] | None, config: Config | None = None) -> SplitData:
    """Pairs that a language model wrote, with their positives as the corpus; without `test` a share is held out."""
    if test is None:
        assert config is not None and isinstance(config.data.held_out, float)
        train, test = split_by_share(train, config.data.held_out, config.seed)
    return SplitData(train, test, _positives(train, test, frozenset(identity(p.positive) for p in test), "both"))


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
    for place, (key, document) in enumerate(_distinct(read_documents(source, tell=True))):
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
    require_groups([passage for passage in passages if passage.split != "held_out"], "passages", source)
    return Passages(passages, Documents(lambda: read_documents(source), frozenset(keys), count))


def require_groups(texts: Sequence[Pair | Document], name: str, source: str) -> None:
    """Make sure that there are texts of two groups, if there are two texts.

    Args:
        texts: what is trained on.
        name: what they are, for messages.
        source: where they come from, for messages.

    Raises:
        DataError: all are of one group.
    """
    groups = {text.group for text in texts}
    if len(texts) > 1 and len(groups) == 1 and (group := groups.pop()):
        found = f"all {len(texts)} {name} are of one group ({json.dumps(group[:SHOWN], ensure_ascii=False)})"
        fault = "texts of one group are never negatives of each other, so no two can stand in one batch"
        raise DataError(source, f"{found}: {fault}. Give {name} of other groups too, or leave the groups out.")


def usable_negatives(split: SplitData) -> tuple[list[Candidate], int]:
    """The given negatives in the order of the training pairs; and how many must not be used: their text is held out."""
    held_out = {folded(text) for pair in split.held_out for text in (pair.query, pair.positive)}
    places = {pair.id: place for place, pair in enumerate(split.train)}
    given = [candidate for candidate in split.given if candidate.pair_id in places]
    given.sort(key=lambda candidate: places[candidate.pair_id])
    usable = [candidate for candidate in given if folded(candidate.text) not in held_out]
    return usable, len(given) - len(usable)


def split_by_share(pairs: list[Pair], share: float, seed: int, tells: bool = True) -> tuple[list[Pair], list[Pair]]:
    """Hold out about `share` of the pairs, never more. Pairs that share a query or a positive stay on one side.

    So do pairs whose queries nearly equal each other, as far as they are few; how much of that stays on both sides is
    said, if `tells`. Of groups of every size about the same share is held out.

    Raises:
        DataError: no pair is left to train on.
    """
    budget = share * len(pairs)
    near = near_queries(pairs)
    held_out = _drawn(_connected(pairs, near, min(budget, LARGEST_CHAIN)), budget, seed)
    train = [pair for pair in pairs if pair.id not in held_out]
    if not train:
        raise DataError("[data]", "no pairs are left to train on.")
    if tells:
        _tell_near(pairs, near, held_out)
    return train, [pair for pair in pairs if pair.id in held_out]


def _drawn(groups: dict[int, list[str]], budget: float, seed: int) -> set[str]:
    """The ids of groups with at most `budget` pairs: large ones first, and then as many smaller ones as bring the rest.

    How many are drawn of a size is rounded at random, so that a group's chance is the same whatever its size.
    """
    order, draw = sorted(groups), random.Random(seed)
    draw.shuffle(order)
    by_size: dict[int, list[int]] = {}
    for group in order:
        if len(groups[group]) <= budget:
            by_size.setdefault(len(groups[group]), []).append(group)
    rest = sum(size * len(same) for size, same in by_size.items())
    held_out: set[str] = set()
    for size, same in sorted(by_size.items(), reverse=True):
        most = (budget - len(held_out)) / size
        wanted = most if rest == size * len(same) else len(same) * (budget - len(held_out)) / rest + draw.random()
        for group in same[: int(min(wanted, most))]:
            held_out.update(groups[group])
        rest -= size * len(same)
    return held_out


def _connected(pairs: list[Pair], near: Iterable[tuple[int, int]], most: float) -> dict[int, list[str]]:
    """Ids of the pairs, grouped so that a query or a positive lies wholly in one group.

    Groups whose queries nearly equal each other are one too, unless that has more than `most` pairs.
    """
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
    sizes = Counter(map(root, range(len(pairs))))
    for one, other in near:
        kept, joined = root(one), root(other)
        if kept != joined and sizes[kept] + sizes[joined] <= most:
            parent[joined] = kept
            sizes[kept] += sizes[joined]
    groups: dict[int, list[str]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(root(index), []).append(pair.id)
    return groups


def near_queries(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Places of pairs whose queries nearly equal each other, each with that of an earlier or shorter query.

    Such queries have the same words in any order, whatever their case, width and punctuation; or one has a word more
    that is short beside the rest (`ADDED`). An exchanged word makes another query, or all that were made by one
    template would be one. Time and memory grow with the pairs, not with their square.
    """
    first: dict[str, int] = {}
    near, distinct = [], []
    for place, pair in enumerate(pairs):
        words = _bare_words(pair.query)
        if (known := first.setdefault(" ".join(words), place)) != place:
            near.append((known, place))
        else:
            distinct.append((place, words))
    for place, words in distinct:
        length = len(" ".join(words))
        for index, word in enumerate(words):
            if len(word) + 1 <= ADDED * (length - len(word) - 1):
                shorter = first.get(" ".join(words[:index] + words[index + 1 :]))
                near += [] if shorter is None else [(shorter, place)]
    return near


def _bare_words(text: str) -> list[str]:
    """The words in the order of the alphabet, without what stands around them."""
    plain = text.casefold() if text.isascii() else folded(unicodedata.normalize("NFKC", text))
    words = (word.strip(MARKS) for word in plain.split())
    return sorted(filter(None, words)) or [text]


def _tell_near(pairs: Sequence[Pair], near: Iterable[tuple[int, int]], held_out: Set[str]) -> None:
    """Say how many queries of one side nearly equal one of the other."""
    sides = [pair.id in held_out for pair in pairs]
    torn = {one if sides[one] else other for one, other in near if sides[one] != sides[other]}
    if torn:
        pair = pairs[min(torn)]
        say(f"  {len(torn)} held-out queries nearly equal a training query (first: {pair.query!r}, pair {pair.id})")


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
    _tell_near(pairs, near_queries(pairs), {pair.id for pair in test})
    positives = {folded(pair.positive) for pair in test}
    kept = [pair for pair in train if folded(pair.positive) not in positives]
    if left_out := len(train) - len(kept):
        say(f"  {left_out} pairs are not trained on: their positive is held out")
    return kept, test


def _positives(train: list[Pair], test: list[Pair], held_out: frozenset[bytes], side: Split) -> Documents:
    """The positives as corpus; `side` says who may look at those that are not held out."""

    def read() -> Iterator[Document]:
        return (Document(p.id, p.positive, s) for pairs, s in ((train, side), (test, "both")) for p in pairs)

    return Documents(read, held_out, len({identity(pair.positive) for pair in (*train, *test)}))


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
