"""BEIR folders: `corpus.jsonl[.gz]`, `queries.jsonl[.gz]` and `qrels/SPLIT.tsv`."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from multigrain.data.field_checks import optional_text, text_field, whole
from multigrain.data.fields import titled
from multigrain.data.jsonl import read_objects
from multigrain.data.key_table import KeyTable, exact_key
from multigrain.data.record_file import RecordFile
from multigrain.errors import DataError
from multigrain.records import Document, Pair
from multigrain.terminal import say

Judgement = tuple[int | None, str, str, int]
"""Line number (None if unknown), query id, document id and grade."""
OWN = "the query itself"
"""Source of a pair whose positive is the query itself, a document of the corpus (as in ArguAna and Quora)."""


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, documents, and which documents are relevant to which query (0 or absent: not relevant).

    The documents may not fit into memory, so each iteration reads them again. `own` maps a query to the document that
    is the query itself; that document is not ranked. `instructions` maps a query to its instruction, if it has one.
    """

    name: str
    queries: dict[str, str]
    documents: Iterable[Document]
    relevance: dict[str, dict[str, int]]
    own: dict[str, str] = field(default_factory=dict)
    instructions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BeirDocuments:
    """The corpus of a folder; each iteration reads it again."""

    folder: Path

    def __iter__(self) -> Iterator[Document]:
        return (document for document, _ in read_beir_passages(self.folder))


def read_beir_passages(folder: Path) -> Iterator[tuple[Document, str]]:
    """Yield each document with its text without the title; skip empty documents.

    The text to embed is title + space + text.
    """
    path = _find(folder, "corpus.jsonl")
    ids = KeyTable()
    for line, fields in read_objects(path):
        id = text_field(fields, "_id", path, line)
        key = exact_key(id)
        if key in ids:
            raise DataError(path, f'the id "{id}" appears a second time; ids must be unique.', line)
        title = optional_text(fields, "title", path, line)
        text = optional_text(fields, "text", path, line)
        if whole := titled(title, text):
            ids.add(key)
            yield Document(id, whole), text


def read_beir_task(folder: Path, split: str) -> RetrievalTask:
    """Read the queries that have a relevant document in the split's qrels, and the whole corpus.

    Raises:
        DataError: a file is missing; see also `judged`.
    """
    _find(folder, "corpus.jsonl")
    qrels = folder / "qrels" / f"{split}.tsv"
    rows = _read_qrels(qrels)
    task = judged(f"beir:{folder.name}:{split}", qrels, rows, _read_queries(folder), BeirDocuments(folder))
    return replace(task, own=own_ids(task.relevance))


def _read_queries(folder: Path) -> dict[str, str]:
    """Return the queries that have a text."""
    path = _find(folder, "queries.jsonl")
    texts: dict[str, str] = {}
    for line, fields in read_objects(path):
        id = text_field(fields, "_id", path, line)
        if id in texts:
            raise DataError(path, f'the id "{id}" appears a second time; ids must be unique.', line)
        read = optional_text if "text" in fields else text_field  # text_field reports the missing field
        texts[id] = read(fields, "text", path, line).strip()
    return {id: text for id, text in texts.items() if text}


def judged(
    name: str,
    where: str | Path,
    judgements: Iterable[Judgement],
    queries: Mapping[str, str],
    documents: Iterable[Document],
) -> RetrievalTask:
    """Return a task with all queries that have a relevant document.

    Judgements of a missing query or document are left out, with a message.

    Args:
        name: name of the task.
        where: origin of the judgements, for messages.
        judgements: relevance of documents to queries.
        queries: query texts by id.
        documents: the corpus.

    Raises:
        DataError: two judgements contradict each other, or no query has a relevant document.
    """
    relevance: dict[str, dict[str, int]] = {}
    for line, query, document, grade in judgements:
        if relevance.setdefault(query, {}).setdefault(document, grade) != grade:
            raise DataError(where, f'query "{query}" and document "{document}" have two grades; wanted one.', line)
    missing = {document for found in relevance.values() for document in found}
    for known in documents:
        missing.discard(known.id)
    dangling = _dangling(relevance, queries, missing)
    whole = {
        query: {document: grade for document, grade in found.items() if document not in missing}
        for query, found in relevance.items()
        if query in queries
    }
    relevant = {query: found for query, found in whole.items() if max(found.values(), default=0) > 0}
    if not relevant:
        raise DataError(where, f"no query has a relevant document{dangling and f'; {dangling}'}.")
    if dangling:
        say(f"  {where}: {dangling}; these are left out")
    return RetrievalTask(name, {query: queries[query] for query in relevant}, documents, relevant)


def _dangling(relevance: dict[str, dict[str, int]], queries: Mapping[str, str], missing: set[str]) -> str:
    """Return a message about judgements whose query or document is missing; empty if there are none."""
    pairs = [(query, document) for query, found in relevance.items() for document in found]
    lost = [(query, document) for query, document in pairs if query not in queries or document in missing]
    if not lost:
        return ""
    query, document = lost[0]
    what = f'document "{document}"' if query in queries else f'query "{query}"'
    return f"{len(lost)} of {len(pairs)} judgements name a query or document that is empty or missing, such as {what}"


def own_ids(relevance: dict[str, dict[str, int]]) -> dict[str, str]:
    """Map each query to the document that is the query itself: the one with the same id, as in BEIR and mteb.

    If that document is judged relevant, the query is left out: the ids are the same by coincidence.
    """
    return {query: query for query, judged in relevance.items() if judged.get(query, 0) <= 0}


def own_pairs(task: RetrievalTask, folder: Path | None = None) -> Sequence[Pair]:
    """Return a pair for each query that is itself a document of the corpus; the source is `OWN`.

    The pairs are kept in a temporary file, see `RecordFile`.
    """
    own = (document for document in task.documents if document.id in task.own) if task.own else ()
    return RecordFile(Pair, (Pair(f"{d.id}/{d.id}", task.queries[d.id], d.text, OWN) for d in own), folder)


def pairs_of(task: RetrievalTask, folder: Path | None = None) -> Sequence[Pair]:
    """Return one pair for each query and relevant document, in a temporary file (see `RecordFile`)."""
    wanted = {id for found in task.relevance.values() for id, grade in found.items() if grade > 0}
    numbers: dict[str, int] = {}
    documents = RecordFile(Document, folder=folder)
    for document in task.documents:
        if document.id in wanted:
            numbers[document.id] = len(documents)
            documents.append(document)
    pairs = RecordFile(Pair, folder=folder)
    for query, found in task.relevance.items():
        for id, grade in found.items():
            if grade > 0:
                text = documents[numbers[id]].text
                pairs.append(Pair(f"{query}/{id}", task.queries[query], text))
    return pairs


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(folder, f"no {name} or {name}.gz; wanted a BEIR folder.")


def _read_qrels(path: Path) -> Iterator[Judgement]:
    """Read BEIR's three tab-separated columns, or TREC's four (query, 0, document, grade), with tabs or spaces."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        present = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise DataError(path, f"cannot be read: {error.strerror}. Splits found: {present}.") from None
    except UnicodeDecodeError:
        raise DataError(path, "not UTF-8. Save the file as UTF-8.") from None
    for number, row in enumerate(csv.reader(lines, delimiter="\t"), start=1):
        if not any(row) or (number == 1 and row[-1].lower() == "score"):
            continue
        columns = row[0].split() if len(row) == 1 else row
        try:
            query, document, grade = columns if len(row) == len(columns) == 3 else _of_trec(*columns)
            yield number, query, document, _grade(grade)
        except (TypeError, ValueError):
            wanted = "query-id, corpus-id and score (a whole number), tab-separated; or TREC's four columns"
            raise DataError(path, f"found {row}; wanted {wanted}.", number) from None


def _grade(text: str) -> int:
    grade = whole(float(text))
    if not isinstance(grade, int):
        raise ValueError(text)
    return grade


def _of_trec(query: str, _: str, document: str, grade: str) -> tuple[str, str, str]:
    return query, document, grade
