"""The sources of pairs and corpora that `[data]` may name."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from multigrain.data import python_docs
from multigrain.data.beir import own_pairs, pairs_of, read_beir_passages, read_beir_task
from multigrain.data.field_checks import optional_text
from multigrain.data.fields import group_of, id_of, refuse_columns, text_of, text_or_blank, titled
from multigrain.data.hub_datasets import HUB, hub_files
from multigrain.data.json_bundle import bundle_pairs, bundle_passages, find_bundle, is_bundle
from multigrain.data.key_table import KeyTable, exact_key, text_key
from multigrain.data.pair_layouts import Example, read_examples
from multigrain.data.record_file import RecordFile, take
from multigrain.data.row_files import Row, read_files, read_rows
from multigrain.data.train_files import files_below
from multigrain.errors import ConfigError, DataError
from multigrain.records import GIVEN, Candidate, Document, Pair
from multigrain.terminal import listed, say

PYTHON_DOCS = "python-docs"
FACTOR = 0x9E3779B97F4A7C15
"""Odd number that scatters keys: 2^64 divided by the golden ratio."""


@dataclass(frozen=True)
class Source:
    """The content of a source of pairs: the pairs, and the negatives that came with them.

    It may be larger than memory: records from files are kept in temporary files.
    """

    pairs: Sequence[Pair]
    given: Sequence[Candidate] = ()
    own: Sequence[Pair] = ()
    """A pair for each query that is itself a document of the corpus, see `OWN`."""


def read_source(source: str, folder: Path | None = None) -> Source:
    """Read a file, folder or `hf:ORG/NAME` (see `multigrain.data.pair_layouts`), `beir:FOLDER:SPLIT` or `python-docs`.

    Args:
        source: where the pairs are.
        folder: folder for temporary files, see `RecordFile`.

    Raises:
        DataError: a file is missing or malformed (the message names file and line), or holds no pairs.
    """
    if source == PYTHON_DOCS:
        read = Source(python_docs.read_pairs())
    elif source.startswith("beir:"):
        task = read_beir_task(*beir_parts(source))
        read = Source(pairs_of(task, folder), own=own_pairs(task, folder))
    else:
        read = _read_examples(source, folder)
    if not read.pairs:
        raise DataError(source, "holds no pairs.")
    return read


def read_pairs(source: str) -> list[Pair]:
    """Return only the pairs of a source; see `read_source`."""
    return list(read_source(source).pairs)


def read_documents(source: str, tell: bool = False) -> Iterator[Document]:
    """Yield the documents of a file, of `beir:FOLDER` or of `hf:ORG/NAME`; a title precedes the text.

    Args:
        source: where the documents are.
        tell: whether to report at the end how many documents of a file are left out because they have no text.

    Raises:
        DataError: the file is missing or malformed (the message names file and line), or an id appears twice.
    """
    return (document for document, _ in read_passages(source, tell))


def read_passages(source: str, tell: bool = False) -> Iterator[tuple[Document, str]]:
    """Yield each document of `read_documents` with its text without the title.

    Raises:
        DataError: see `read_documents`, also for the arguments.
    """
    if source.startswith("beir:"):
        yield from read_beir_passages(Path(source.removeprefix("beir:")))
        return
    ids = KeyTable()
    empty = 0
    for row in _rows(source):
        if row.number == 1 and is_bundle(row.fields):
            yield from bundle_passages(row)
            return
        refuse_columns(row, "text")
        id = id_of(row) or str(row.number)
        if not ids.add(exact_key(id)):
            raise DataError(row.where, f'the id "{id}" appears a second time; ids must be unique.')
        read = text_or_blank if "text" in row.fields else text_of  # text_of reports the missing field
        title, text = optional_text(row.fields, "title", row.where), read(row, "text", row.fields.get("text"))
        if whole := titled(title, text):
            yield Document(id, whole, group=group_of(row)), text
        else:
            empty += 1
    if empty and tell:
        say(f"  {source}: {empty} documents have no text and are left out")


def beir_parts(source: str) -> tuple[Path, str]:
    """Return folder and split of `beir:FOLDER:SPLIT`."""
    folder, colon, split = source.removeprefix("beir:").rpartition(":")
    if not colon or not split or "/" in split:
        raise DataError(source, "wanted beir:FOLDER:SPLIT, as in beir:data/scifact:train.")
    return Path(folder), split


def files_of(source: str) -> list[Path]:
    """Return the files that a source is read from."""
    if source == PYTHON_DOCS:
        return []
    if source.startswith(HUB):
        return [*hub_files(source)]
    if not source.startswith("beir:"):
        return files_below(Path(source))
    folder, _, split = source.removeprefix("beir:").partition(":")
    names = ["corpus.jsonl", "corpus.jsonl.gz"]
    if split:
        names += ["queries.jsonl", "queries.jsonl.gz", f"qrels/{split}.tsv"]
    return [path for name in names if (path := Path(folder, name)).is_file()]


def corpus_of(pairs: str, corpus: str | None) -> str | None:
    """Return the source of the corpus: the configured one, else the one that comes with the pairs, else None.

    Raises:
        ConfigError: python-docs is configured as the corpus, which it cannot be.
    """
    if corpus == PYTHON_DOCS:
        raise ConfigError("data.corpus", ["python-docs has its own corpus; remove the key"])
    if corpus is None and pairs.startswith("beir:"):
        return f"beir:{beir_parts(pairs)[0]}"
    is_file = pairs != PYTHON_DOCS and not pairs.startswith(HUB)
    return pairs if corpus is None and is_file and find_bundle(Path(pairs)) else corpus


def _rows(source: str) -> Iterator[Row]:
    """Return the rows of a file or folder, or of a dataset of the hub."""
    return read_files(hub_files(source)) if source.startswith(HUB) else read_rows(Path(source))


def _read_examples(source: str, folder: Path | None) -> Source:
    path = Path(source)
    if not source.startswith(HUB) and (bundle := find_bundle(path)):
        return Source(bundle_pairs(bundle, path, folder))
    read = _Read(folder)
    for row, example in read_examples(_rows(source), folder):
        read.add(row, example)
    if read.repeated:
        say(f"  {read.repeated} positives appear a second time under their query's id; each is read once")
    return Source(read.pairs, distinct(read.given, read.pairs))


class _Read:
    """Collects one pair for each positive. Rows that give negatives of the same pair, as triplets do, are merged."""

    def __init__(self, folder: Path | None) -> None:
        self.pairs = RecordFile(Pair, folder=folder)
        self.given = RecordFile(Candidate, folder=folder)
        self.repeated = 0
        self._by_id = KeyTable()
        """Numbers of the pairs, by id."""
        self._by_texts = KeyTable()
        """Numbers of the pairs, by row id, query and positive; for pairs with negatives also by query and positive."""
        self._queries = array("Q")
        """The `text_key` of each pair's query."""
        self._counts = Counter[str]()

    def add(self, row: Row, example: Example) -> None:
        """Add the pairs and the negatives of a row.

        Raises:
            DataError: another query has the row's id.
        """
        own = example.id or str(row.number)
        for index, (name, text) in enumerate(example.positives):
            id = own if len(example.positives) == 1 else f"{own}/{name or index}"
            pair = Pair(
                id=id,
                query=example.query,
                positive=text,
                source=example.source,
                instruction=example.instruction,
                task=example.task,
                group=example.group,
            )
            id = self._id(row, own, pair, bool(example.negatives))
            for negative in example.negatives:
                self.given.append(Candidate(id, negative.grade, negative.text, negative.source, GIVEN))

    def _id(self, row: Row, own: str, pair: Pair, has_negatives: bool) -> str:
        """Return the id of the pair; store the pair first if it is new.

        A new pair gets `pair.id`, or a numbered id if that one is taken.
        """
        texts = pair.query, pair.positive
        keys = [exact_key(own, *texts)]
        if has_negatives:
            keys.insert(0, exact_key(*texts))
        number = next((known for key in keys if (known := self._by_texts.get(key)) is not None), None)
        if number is None:
            pair = self._named(row, own, pair)
            number = self._append(pair)
        else:
            self.repeated += not has_negatives
            pair = self.pairs[number]
        for key in keys:
            self._by_texts.setdefault(key, number)
        return pair.id

    def _named(self, row: Row, own: str, pair: Pair) -> Pair:
        known = self._by_id.get(exact_key(pair.id))
        if known is None:
            return pair
        if self._queries[known] != text_key(pair.query):
            raise DataError(row.where, f'the id "{pair.id}" appears a second time; ids of queries must be unique.')
        self._counts[own] += 1
        while exact_key(id := f"{own}/{self._counts[own]}") in self._by_id:
            self._counts[own] += 1
        return replace(pair, id=id)

    def _append(self, pair: Pair) -> int:
        number = len(self.pairs)
        self.pairs.append(pair)
        self._by_id.setdefault(exact_key(pair.id), number)
        self._queries.append(text_key(pair.query))
        return number


def distinct(given: Sequence[Candidate], pairs: Sequence[Pair]) -> Sequence[Candidate]:
    """Return the given negatives without blanks, positives of the same query, and repeats within a pair.

    A message counts those left out.
    """
    if not given:
        return given
    queries, pair_numbers, positives = array("Q"), KeyTable(), KeyTable()
    for number, pair in enumerate(pairs):
        pair_numbers.setdefault(exact_key(pair.id), number)
        queries.append(text_key(pair.query))
        positives.add(_joined(queries[-1], text_key(pair.positive)))
    seen, kept = KeyTable(), array("Q")
    left_out = Counter[str]()
    for place, candidate in enumerate(given):
        own, text = exact_key(candidate.pair_id), text_key(candidate.text)
        of_pair = pair_numbers.get(own)
        assert of_pair is not None
        if not candidate.text.strip():
            left_out["blank"] += 1
        elif _joined(queries[of_pair], text) in positives:
            left_out["positives of the same query"] += 1
        elif not seen.add(_joined(own, text)):
            left_out["repeated"] += 1
        else:
            kept.append(place)
    if left_out:
        say(f"  given negatives left out: {listed(left_out)}")
    return take(given, kept)


def _joined(one: int, other: int) -> int:
    """Combine two keys into one."""
    return (one * FACTOR + other) % 2**64
