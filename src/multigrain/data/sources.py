"""The forms in which `[data]` may name pairs and corpora."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from multigrain.data import python_docs
from multigrain.data.beir import own_pairs, pairs_of, read_beir_passages, read_beir_task
from multigrain.data.field_checks import optional_text
from multigrain.data.fields import group_of, id_of, refuse_columns, text_of, text_or_blank, titled
from multigrain.data.json_bundle import bundle_pairs, bundle_passages, find_bundle, is_bundle
from multigrain.data.pair_layouts import Example, read_examples
from multigrain.data.row_files import Row, read_rows
from multigrain.data.train_files import files_below
from multigrain.errors import ConfigError, DataError
from multigrain.records import GIVEN, Candidate, Document, Pair, folded
from multigrain.terminal import listed, say

PYTHON_DOCS = "python-docs"


@dataclass(frozen=True)
class Source:
    """The content of a source of pairs: the pairs, and the negatives that came with them."""

    pairs: list[Pair]
    given: list[Candidate] = field(default_factory=list)
    own: list[Pair] = field(default_factory=list)
    """The queries that are documents of the corpus, each with that document: see `OWN`."""


def read_source(source: str) -> Source:
    """Read a file or folder (see `multigrain.data.pair_layouts`), `beir:FOLDER:SPLIT` or `python-docs`.

    Raises:
        DataError: a file is missing or wrong (names file and line), or holds no pair.
    """
    if source == PYTHON_DOCS:
        read = Source(python_docs.read_pairs())
    elif source.startswith("beir:"):
        task = read_beir_task(*beir_parts(source))
        read = Source(pairs_of(task), own=own_pairs(task))
    else:
        read = _read_examples(Path(source))
    if not read.pairs:
        raise DataError(source, "holds no pairs.")
    return read


def read_pairs(source: str) -> list[Pair]:
    """Return the pairs of a source alone; see `read_source`."""
    return read_source(source).pairs


def read_documents(source: str, tell: bool = False) -> Iterator[Document]:
    """Yield the documents of a file or of `beir:FOLDER`; a title is put before the text.

    Args:
        source: where they are.
        tell: say at the end how many documents of a file have no text and are left out.

    Raises:
        DataError: the file is missing or wrong (names file and line), or an id appears twice.
    """
    return (document for document, _ in read_passages(source, tell))


def read_passages(source: str, tell: bool = False) -> Iterator[tuple[Document, str]]:
    """Yield the documents of `read_documents`, and the text of each without its title.

    Raises:
        DataError: see `read_documents`, as for the arguments.
    """
    if source.startswith("beir:"):
        yield from read_beir_passages(Path(source.removeprefix("beir:")))
        return
    ids: set[str] = set()
    empty = 0
    for row in read_rows(Path(source)):
        if row.number == 1 and is_bundle(row.fields):
            yield from bundle_passages(row)
            return
        refuse_columns(row, "text")
        id = id_of(row) or str(row.number)
        if id in ids:
            raise DataError(row.where, f'the id "{id}" appears a second time; ids must differ.')
        ids.add(id)
        read = text_or_blank if "text" in row.fields else text_of  # which says that there is no such field
        title, text = optional_text(row.fields, "title", row.where), read(row, "text", row.fields.get("text"))
        if whole := titled(title, text):
            yield Document(id, whole, group=group_of(row)), text
        else:
            empty += 1
    if empty and tell:
        say(f"  {source}: {empty} documents have no text: left out")


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
    if not source.startswith("beir:"):
        return files_below(Path(source))
    folder, _, split = source.removeprefix("beir:").partition(":")
    names = ["corpus.jsonl", "corpus.jsonl.gz"]
    if split:
        names += ["queries.jsonl", "queries.jsonl.gz", f"qrels/{split}.tsv"]
    return [path for name in names if (path := Path(folder, name)).is_file()]


def corpus_of(pairs: str, corpus: str | None) -> str | None:
    """Return the source of the corpus: the one that is named, or the one that comes with the pairs, or None.

    Raises:
        ConfigError: python-docs is named, which is no corpus.
    """
    if corpus == PYTHON_DOCS:
        raise ConfigError("data.corpus", ["python-docs brings its own corpus; leave the key out"])
    if corpus is None and pairs.startswith("beir:"):
        return f"beir:{beir_parts(pairs)[0]}"
    return pairs if corpus is None and pairs != PYTHON_DOCS and find_bundle(Path(pairs)) else corpus


def _read_examples(path: Path) -> Source:
    if bundle := find_bundle(path):
        return Source(bundle_pairs(bundle, path))
    pairs = _Pairs()
    for row, example in read_examples(read_rows(path)):
        pairs.add(row, example)
    if pairs.repeated:
        say(f"  {pairs.repeated} positives stand a second time under their query's id: read once")
    return Source(list(pairs.by_id.values()), distinct(pairs.given, pairs.by_id.values()))


class _Pairs:
    """One pair for each positive. A pair whose negatives come in several rows, as in triplets, is one pair."""

    def __init__(self) -> None:
        self.by_id: dict[str, Pair] = {}
        self.given: list[Candidate] = []
        self.repeated = 0
        self._ids: dict[tuple[str | None, str, str], str] = {}
        """By the row's own id, query and positive; of pairs with negatives also by query and positive alone."""
        self._counts = Counter[str]()

    def add(self, row: Row, example: Example) -> None:
        """Take what a row says.

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
            self.by_id.setdefault(id, pair if pair.id == id else replace(pair, id=id))
            self.given += [Candidate(id, n.grade, n.text, n.source, GIVEN) for n in example.negatives]

    def _id(self, row: Row, own: str, pair: Pair, has_negatives: bool) -> str:
        """Return the id of the pair, if it is there, or one that no other pair has: `pair.id`, or a numbered one."""
        texts = pair.query, pair.positive
        id = self._ids.get((None, *texts)) if has_negatives else None
        if id is None and (id := self._ids.get((own, *texts))) and not has_negatives:
            self.repeated += 1
        if id is None:
            known = self.by_id.get(pair.id)
            if known and folded(known.query) != folded(pair.query):
                raise DataError(row.where, f'the id "{pair.id}" appears a second time; ids of queries must differ.')
            id = self._numbered(own) if known else pair.id
        self._ids[(own, *texts)] = id
        if has_negatives:
            self._ids[(None, *texts)] = id
        return id

    def _numbered(self, own: str) -> str:
        self._counts[own] += 1
        while (id := f"{own}/{self._counts[own]}") in self.by_id:
            self._counts[own] += 1
        return id


def distinct(given: Sequence[Candidate], pairs: Collection[Pair]) -> list[Candidate]:
    """Return the given negatives, each text once for a pair, without blanks and positives of the same query.

    A message says how many are left out.
    """
    if not given:
        return []
    queries = {pair.id: folded(pair.query) for pair in pairs}
    positives = {(queries[pair.id], folded(pair.positive)) for pair in pairs}
    kept: dict[tuple[str, str], Candidate] = {}
    left_out = Counter[str]()
    for candidate in given:
        text = folded(candidate.text)
        if not text:
            left_out["blank"] += 1
        elif (queries[candidate.pair_id], text) in positives:
            left_out["positives of the same query"] += 1
        elif kept.setdefault((candidate.pair_id, text), candidate) is not candidate:
            left_out["repeated"] += 1
    if left_out:
        say(f"  given negatives left out: {listed(left_out)}")
    return list(kept.values())
