"""The dev set of a run, by which `tune` chooses: queries that no trial trains on, measured a few at first, then more.

The dev queries are those that the run keeps for choices (`data.dev_share`) or, if it keeps none, a part of the training
queries. Held-out queries and tests play no part. The documents searched are the answers to the dev queries, documents
near these queries (the negatives that grading kept, or the first results of judge and BM25), and documents drawn at
random from the corpus.
"""

import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from multigrain.config import Config
from multigrain.data.beir import OWN, RetrievalTask
from multigrain.data.corpus_file import Corpus
from multigrain.data.held_out import split_by_share
from multigrain.data.jsonl import read_pairs, read_tuples, write_records
from multigrain.errors import DataError
from multigrain.evaluation.evaluate import search_of, word_matches
from multigrain.evaluation.nearest import NONE
from multigrain.evaluation.tasks import held_out_task
from multigrain.files import count_lines, digest_of, link_or_copy, write_atomic
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.known_false_negatives import own_documents
from multigrain.pipeline.recipe import texts_digest
from multigrain.pipeline.retrievers import dev_searches
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Document, GradedTuple, Pair, identity

SHARE = 0.2
"""Maximum share of the training pairs used as dev pairs, if the run keeps none for choices."""
MOST, FIRST = 2000, 250
"""Maximum number of dev pairs, and number of queries measured at first."""
LEAST = 100
"""Minimum number of training pairs for a choice: a fifth of them are 20 dev queries."""
NOTE = "inputs"
"""The file of the part that records what it was made from."""
NEAR = 4
"""First results of judge and of BM25 that are searched for a query without mined negatives."""
DRAWN = 4
"""Documents drawn from the corpus for each measured query."""


@dataclass(frozen=True)
class DevPart:
    """The dev queries in a fixed order, and the texts to search.

    Attributes:
        folder: a run folder with the data that trials train on.
        pairs: the dev queries with their answers.
        negatives: documents near each dev query, by the identity of the query.
        drawn: the whole corpus if it is small, else documents drawn from it.
        own: queries that are documents of the corpus.
    """

    folder: Path
    pairs: list[Pair]
    negatives: dict[bytes, list[str]]
    drawn: list[Document]
    own: list[Pair]

    @property
    def inputs(self) -> str:
        """Digest of what the part was made from."""
        return (self.folder / NOTE).read_text(encoding="utf-8")

    @property
    def tuples(self) -> int:
        """Number of tuples that trials train on."""
        return count_lines(RunDir(self.folder).tuples)

    @cached_property
    def queries(self) -> list[bytes]:
        """The distinct queries by their identity, in the order of measurement."""
        return list(dict.fromkeys(identity(pair.query) for pair in self.pairs))

    @property
    def sizes(self) -> list[int]:
        """Numbers of queries to measure: 250 at first, then twice as many each time, and finally all."""
        sizes, all_queries = [FIRST], len(self.queries)
        while sizes[-1] < all_queries:
            sizes.append(2 * sizes[-1])
        return [*(size for size in sizes if size < all_queries), all_queries]

    def task(self, size: int) -> RetrievalTask:
        """Return the search task of the first `size` queries; with fewer queries, it has fewer documents."""
        wanted = set(self.queries[:size])
        pairs = [pair for pair in self.pairs if identity(pair.query) in wanted]
        negatives = [text for query in self.queries[:size] for text in self.negatives.get(query, ())]
        drawn = [document.text for document in self.drawn[: DRAWN * size]]
        documents: dict[bytes, Document] = {}
        for text in [*(pair.positive for pair in pairs), *negatives, *drawn]:
            documents.setdefault(identity(text), Document(str(len(documents)), text))
        return held_out_task(pairs, list(documents.values()), self.own)


def dev_part(config: Config, run_dir: RunDir) -> DevPart:
    """Return the dev set of a run; write the data left to train on to `tune/part`, unless it is there.

    Raises:
        DataError: there are too few pairs to choose by.
    """
    kept = list(read_pairs(run_dir.dev_pairs)) if run_dir.dev_pairs.is_file() else []
    is_kept = len(kept) >= SHARE * LEAST
    dev = kept if is_kept else _taken_from_training(config, run_dir)
    dev = random.Random(f"{config.seed} dev").sample(dev, len(dev))
    part = RunDir(run_dir.folder / "tune" / "part")
    queries = {identity(pair.query) for pair in dev}
    _write_part(config, run_dir, part, dev)
    known = [pair for path in run_dir.pair_files() for pair in read_pairs(path) if identity(pair.query) in queries]
    answers = {pair.id for pair in dev}
    more = [pair for pair in known if pair.id not in answers and pair.source != OWN]
    own = [pair for pair in own_documents(run_dir) if identity(pair.query) in queries]
    negatives = _near(config, run_dir) if is_kept else _negatives(run_dir, queries)
    return DevPart(part.folder, [*dev, *more], negatives, _drawn(config, run_dir), own)


def _taken_from_training(config: Config, run_dir: RunDir) -> list[Pair]:
    tuples = {graded.id for graded in read_tuples(run_dir.tuples)}
    pairs = [pair for pair in read_pairs(run_dir.train_pairs) if pair.id in tuples]
    if len(pairs) < LEAST:
        found = f"found {len(pairs)} training pairs with negatives; tune needs {LEAST}, a fifth of them to measure on"
        raise DataError(run_dir.tuples, f"{found}. Give more pairs, or train without tune, by the defaults.")
    _, dev = split_by_share(pairs, min(SHARE, MOST / len(pairs)), config.seed, tells=False)
    return list(dev)


def _near(config: Config, run_dir: RunDir) -> dict[bytes, list[str]]:
    """Return the first results of judge and BM25 for each query, because nothing is mined for queries kept back."""
    corpus, texts = Corpus(run_dir.corpus), dict[bytes, list[str]]()
    for search in dev_searches(config, run_dir):
        words = word_matches(search.task, config.mining.language, run_dir.bm25)
        near = words.numbers[:, :NEAR]
        if config.mining.enabled and "embedding" in config.mining.methods:  # its corpus vectors are stored
            found = search_of(search.task, judge_encoder(config, run_dir)).found
            near = np.concatenate([found.numbers[:, : NEAR + 1], near], axis=1)
        of_source: dict[bytes, list[str]] = {}
        for query, numbers, itself in zip(search.task.queries.values(), near, words.own, strict=True):
            wanted = dict.fromkeys(number for number in numbers.tolist() if number not in (NONE, itself))
            of_source[identity(query)] = corpus.texts(search.numbers[[*wanted]].tolist())
        for asked, of_query in of_source.items():
            texts.setdefault(asked, []).extend(of_query)
    return texts


def _negatives(run_dir: RunDir, queries: set[bytes]) -> dict[bytes, list[str]]:
    """Return the mined negatives of the dev queries: documents that are near, but not answers."""
    found: dict[bytes, list[str]] = {}
    for graded in read_tuples(run_dir.tuples):
        if (query := identity(graded.query)) in queries:
            mined = [negative.text for negative in graded.negatives if negative.source == "mined"]
            found.setdefault(query, []).extend(mined)
    return found


def _drawn(config: Config, run_dir: RunDir) -> list[Document]:
    corpus = Corpus(run_dir.corpus)
    places = random.Random(f"{config.seed} dev documents").sample(range(len(corpus)), min(len(corpus), DRAWN * MOST))
    return [corpus[place] for place in places]


def _write_part(config: Config, run_dir: RunDir, part: RunDir, dev: list[Pair]) -> None:
    """Write the run's training part without the dev queries, and without their answers among the negatives."""
    inputs = f"{config.fingerprint('seed', 'mining', 'judging')} {texts_digest(run_dir)} {digest_of(run_dir.corpus)}"
    note = part.folder / NOTE
    if note.is_file() and note.read_text(encoding="utf-8") == inputs:
        return
    shutil.rmtree(part.folder, ignore_errors=True)
    ids = {pair.id for pair in dev}
    write_records(part.train_pairs, (pair for pair in read_pairs(run_dir.train_pairs) if pair.id not in ids))
    kept = read_pairs(run_dir.dev_pairs) if run_dir.dev_pairs.is_file() else ()
    write_records(part.dev_pairs, {pair.id: pair for pair in chain(kept, dev)}.values())
    write_records(part.tuples, _without(dev, read_tuples(run_dir.tuples)))
    for name in ("held_out_pairs", "other_pairs", "corpus", "judge_vectors"):
        source, path = getattr(run_dir, name), getattr(part, name)
        if source.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, path)
    write_atomic(note, inputs.encode())


def _without(dev: list[Pair], tuples: Iterable[GradedTuple]) -> Iterator[GradedTuple]:
    """Yield the tuples of other pairs, without negatives that answer a dev query."""
    ids, answers = {pair.id for pair in dev}, {identity(pair.positive) for pair in dev}
    for graded in tuples:
        if graded.id not in ids:
            kept = tuple(negative for negative in graded.negatives if identity(negative.text) not in answers)
            yield replace(graded, negatives=kept)
