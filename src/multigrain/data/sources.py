"""The forms in which `[data]` may name pairs and corpora."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multigrain.data import python_docs
from multigrain.data.beir import own_pairs, pairs_of, read_beir_documents, read_beir_task
from multigrain.data.fields import group_of, id_of, text_of
from multigrain.data.forms import read_examples
from multigrain.data.rows import files_below, read_rows
from multigrain.errors import DataError
from multigrain.records import Candidate, Document, Pair, folded

PYTHON_DOCS = "python-docs"
GIVEN = "given"
"""What stands for the model of a negative that came with its pair."""


@dataclass(frozen=True)
class Source:
    """What a source of pairs holds: the pairs, and the negatives that came with them."""

    pairs: list[Pair]
    given: list[Candidate] = field(default_factory=list)
    own: list[Pair] = field(default_factory=list)
    """The queries that are documents of the corpus, each with that document: see `OWN`."""


def read_source(source: str) -> Source:
    """What a file or folder (see `multigrain.data.forms`), `beir:FOLDER:SPLIT` or `python-docs` holds.

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
    """The pairs of a source alone; see `read_source`."""
    return read_source(source).pairs


def read_documents(source: str) -> Iterator[Document]:
    """The documents of a file or of `beir:FOLDER`, read as they are asked for; a title is put before the text.

    Raises:
        DataError: the file is missing or wrong (names file and line), or an id appears twice.
    """
    if source.startswith("beir:"):
        yield from read_beir_documents(Path(source.removeprefix("beir:")))
        return
    ids: set[str] = set()
    for row in read_rows(Path(source)):
        id = id_of(row) or str(row.number)
        if id in ids:
            raise DataError(row.where, f'the id "{id}" appears a second time; ids must differ.')
        ids.add(id)
        title = row.fields.get("title") or ""
        yield Document(id, f"{title} {text_of(row, 'text', row.fields.get('text'))}".strip(), group=group_of(row))


def beir_parts(source: str) -> tuple[Path, str]:
    """Folder and split of `beir:FOLDER:SPLIT`."""
    folder, colon, split = source.removeprefix("beir:").rpartition(":")
    if not colon or not split or "/" in split:
        raise DataError(source, "wanted beir:FOLDER:SPLIT, as in beir:data/scifact:train.")
    return Path(folder), split


def files_of(source: str) -> list[Path]:
    """The files that a source is read from."""
    if source == PYTHON_DOCS:
        return []
    if not source.startswith("beir:"):
        return files_below(Path(source))
    folder, _, split = source.removeprefix("beir:").partition(":")
    names = ["corpus.jsonl", "corpus.jsonl.gz"]
    if split:
        names += ["queries.jsonl", "queries.jsonl.gz", f"qrels/{split}.tsv"]
    return [path for name in names if (path := Path(folder, name)).is_file()]


def _read_examples(path: Path) -> Source:
    """One pair for each positive. A pair whose negatives come in several rows, as in triplets, is one pair."""
    pairs: dict[str, Pair] = {}
    ids: dict[tuple[str, str], str] = {}
    given: list[Candidate] = []
    for row, example in read_examples(read_rows(path)):
        own = example.id or str(row.number)
        for index, (name, text) in enumerate(example.positives):
            id = own if len(example.positives) == 1 else f"{own}/{name or index}"
            if example.negatives:
                id = ids.setdefault((example.query, text), id)
            pair = Pair(id, example.query, text, example.source, example.instruction, example.task, example.group)
            known = pairs.setdefault(id, pair)
            if known is not pair and not (example.negatives and _is_same(known, pair)):
                raise DataError(row.where, f'the id "{id}" appears a second time; ids must differ.')
            given += [Candidate(id, n.grade, n.text, n.source, GIVEN) for n in example.negatives]
    return Source(list(pairs.values()), _distinct(given, pairs))


def _distinct(given: list[Candidate], pairs: dict[str, Pair]) -> list[Candidate]:
    """Each text once for a pair, and none that is a positive of the same query."""
    positives = {(pair.query, folded(pair.positive)) for pair in pairs.values()}
    distinct: dict[tuple[str, str], Candidate] = {}
    for candidate in given:
        text = folded(candidate.text)
        if (pairs[candidate.pair_id].query, text) not in positives:
            distinct.setdefault((candidate.pair_id, text), candidate)
    return list(distinct.values())


def _is_same(pair: Pair, other: Pair) -> bool:
    return (pair.query, pair.positive) == (other.query, other.positive)
