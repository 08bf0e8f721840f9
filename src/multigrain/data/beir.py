"""BEIR folders: `corpus.jsonl[.gz]`, `queries.jsonl[.gz]` and `qrels/SPLIT.tsv`."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multigrain.errors import DataError
from multigrain.jsonl import no_text, read_objects, text_field
from multigrain.records import Document, Pair

OWN = "the query itself"
"""The source of a pair whose positive is its own query, as a document of the corpus (as in ArguAna and Quora)."""


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, documents, and which documents are relevant to which query (0 or absent: not relevant).

    The documents may be more than fit into memory: they are iterated over, each time anew. `own` names for a query
    the document that is the query itself, which is not ranked.
    """

    name: str
    queries: dict[str, str]
    documents: Iterable[Document]
    relevance: dict[str, dict[str, int]]
    own: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BeirDocuments:
    """The corpus of a folder, read whenever it is iterated over."""

    folder: Path

    def __iter__(self) -> Iterator[Document]:
        return read_beir_documents(self.folder)


def read_beir_documents(folder: Path) -> Iterator[Document]:
    """The corpus, read as it is asked for; the text to embed is title + space + text."""
    path = _find(folder, "corpus.jsonl")
    ids: set[str] = set()
    for line, fields in read_objects(path):
        id = text_field(fields, "_id", path, line)
        if id in ids:
            raise DataError(path, f'the id "{id}" appears a second time; ids must differ.', line)
        parts = {name: fields.get(name) or "" for name in ("title", "text")}
        for name, part in parts.items():
            if not isinstance(part, str):
                raise DataError(path, no_text(name, part), line)
        text = " ".join(parts.values()).strip()
        if text:
            ids.add(id)
            yield Document(id, text)


def read_beir_task(folder: Path, split: str) -> RetrievalTask:
    """The queries for which the split's qrels name a relevant document, with the whole corpus.

    Raises:
        DataError: a file is missing, or qrels name a query or document that is not there, or contradict themselves.
    """
    _find(folder, "corpus.jsonl")
    path = _find(folder, "queries.jsonl")
    texts: dict[str, str] = {}
    for line, fields in read_objects(path):
        id = text_field(fields, "_id", path, line)
        if id in texts:
            raise DataError(path, f'the id "{id}" appears a second time; ids must differ.', line)
        texts[id] = text_field(fields, "text", path, line)
    relevance: dict[str, dict[str, int]] = {}
    qrels = folder / "qrels" / f"{split}.tsv"
    lines: dict[str, int] = {}
    for line, query, document, grade in _read_qrels(qrels):
        if query not in texts:
            raise DataError(qrels, f'query "{query}" is not in {path.name}.', line)
        lines.setdefault(document, line)
        if relevance.setdefault(query, {}).setdefault(document, grade) != grade:
            raise DataError(qrels, f'query "{query}" and document "{document}" were judged otherwise before.', line)
    for found in read_beir_documents(folder):
        lines.pop(found.id, None)
    for missing, line in lines.items():
        raise DataError(qrels, f'document "{missing}" is not in the corpus, or is empty there.', line)
    relevance = {query: judged for query, judged in relevance.items() if max(judged.values()) > 0}
    if not relevance:
        raise DataError(qrels, "no query has a relevant document.")
    queries = {query: texts[query] for query in relevance}
    return RetrievalTask(f"beir:{folder.name}:{split}", queries, BeirDocuments(folder), relevance, own_ids(relevance))


def own_ids(relevance: dict[str, dict[str, int]]) -> dict[str, str]:
    """For each query the id of the document that is the query itself: its own, as in BEIR and mteb.

    Where a document of the query's id is judged relevant, the ids only happen to be the same.
    """
    return {query: query for query, judged in relevance.items() if judged.get(query, 0) <= 0}


def own_pairs(task: RetrievalTask) -> list[Pair]:
    """The queries that are documents of the corpus, each with that document; their source is `OWN`."""
    texts = {document.id: document.text for document in task.documents if document.id in task.own}
    return [Pair(f"{id}/{id}", task.queries[id], text, OWN) for id, text in texts.items()]


def pairs_of(task: RetrievalTask) -> list[Pair]:
    """One pair for each query and relevant document."""
    wanted = {document for judged in task.relevance.values() for document in judged}
    texts = {document.id: document.text for document in task.documents if document.id in wanted}
    return [
        Pair(f"{query}/{document}", task.queries[query], texts[document])
        for query, judged in task.relevance.items()
        for document, grade in judged.items()
        if grade > 0
    ]


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(folder, f"no {name} or {name}.gz; wanted a BEIR folder.")


def _read_qrels(path: Path) -> Iterator[tuple[int, str, str, int]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        present = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise DataError(path, f"cannot be read: {error.strerror}. Splits found: {present}.") from None
    except UnicodeDecodeError:
        raise DataError(path, "not UTF-8. Save the file as UTF-8.") from None
    for number, row in enumerate(csv.reader(lines, delimiter="\t"), start=1):
        if number == 1 and row and row[-1] == "score":
            continue
        try:
            query, document, grade = row
            yield number, query, document, int(grade)
        except ValueError:
            raise DataError(
                path, f"found {row}; wanted query-id, corpus-id and score (a whole number), tab-separated.", number
            ) from None
