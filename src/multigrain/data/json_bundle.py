"""One JSON object with queries, corpus and judgements, as in LlamaIndex and sentence-transformers' evaluator.

    {"queries": {id: text}, "corpus": {id: text}, "relevant_docs": {query: [document, ...]}}

A document may also be {"title", "text"}. The judgements may be called "qrels" and may hold grades:
{query: {document: grade}}.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multigrain.data.beir import Judgement, judged, pairs_of
from multigrain.data.field_checks import optional_text, whole
from multigrain.data.fields import titled
from multigrain.data.row_files import Row, read_rows
from multigrain.errors import DataError
from multigrain.records import Document, Pair

JUDGEMENTS = ("relevant_docs", "qrels")


def is_bundle(fields: dict[str, Any]) -> bool:
    """Return whether a row is a bundle of queries, corpus and judgements."""
    has_judgements = any(isinstance(fields.get(name), dict) for name in JUDGEMENTS)
    return has_judgements and all(isinstance(fields.get(name), dict) for name in ("queries", "corpus"))


def find_bundle(path: Path) -> Row | None:
    """Return the row of the bundle; None if the file holds none."""
    first = next(read_rows(path), None)
    return first if first is not None and is_bundle(first.fields) else None


def bundle_pairs(row: Row, path: Path, folder: Path | None = None) -> Sequence[Pair]:
    """Return one pair for each query and relevant document; see `pairs_of`.

    Raises:
        DataError: a text or judgement is malformed; see also `judged`.
    """
    texts = row.fields["queries"]
    queries = {id: text for id in texts if (text := optional_text(texts, id, f"{row.where}, queries").strip())}
    documents = [document for document, _ in bundle_passages(row)]
    return pairs_of(judged(path.name, path, _judgements(row), queries, documents), folder)


def bundle_passages(row: Row) -> Iterator[tuple[Document, str]]:
    """Yield each document with its text without the title; skip empty documents.

    Raises:
        DataError: a title or text is something other than text.
    """
    for id, found in row.fields["corpus"].items():
        fields = found if isinstance(found, dict) else {"text": found}
        where = f'{row.where}, document "{id}"'
        title = optional_text(fields, "title", where)
        text = optional_text(fields, "text", where)
        if whole := titled(title, text):
            yield Document(id, whole), text


def _judgements(row: Row) -> Iterator[Judgement]:
    name = next(name for name in JUDGEMENTS if isinstance(row.fields.get(name), dict))
    for query, found in row.fields[name].items():
        ids = found if isinstance(found, list | dict) else [found]
        for document in map(whole, ids):
            grade = whole(found[document]) if isinstance(found, dict) else 1
            if not isinstance(document, str | int) or type(grade) is not int:
                wanted = "a list of document ids, or whole numbers by document id"
                raise DataError(row.where, f'"{name}" of query "{query}" is {json.dumps(found)[:40]}; wanted {wanted}.')
            yield None, query, str(document), grade
