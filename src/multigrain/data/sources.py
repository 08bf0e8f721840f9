"""The forms in which `[data]` may name pairs and corpora."""

from collections.abc import Iterator
from pathlib import Path

from multigrain.data import python_docs
from multigrain.data.beir import read_beir_documents, read_beir_pairs
from multigrain.errors import DataError
from multigrain.jsonl import read_objects, text_field
from multigrain.records import Document, Pair

PYTHON_DOCS = "python-docs"


def read_pairs(source: str) -> list[Pair]:
    """The pairs of `FILE.jsonl`, `beir:FOLDER:SPLIT` or `python-docs`.

    Raises:
        DataError: a file is missing or wrong (names file and line), or holds no pair.
    """
    if source == PYTHON_DOCS:
        pairs = python_docs.read_pairs()
    elif source.startswith("beir:"):
        folder, split = beir_parts(source)
        pairs = read_beir_pairs(folder, split)
    else:
        pairs = _read_jsonl_pairs(Path(source))
    if not pairs:
        raise DataError(source, "holds no pairs.")
    return pairs


def read_documents(source: str) -> Iterator[Document]:
    """The documents of `FILE.jsonl` or `beir:FOLDER`, read as they are asked for; a title is put before the text.

    Raises:
        DataError: the file is missing or wrong (names file and line), or an id appears twice.
    """
    if source.startswith("beir:"):
        yield from read_beir_documents(Path(source.removeprefix("beir:")))
        return
    path = Path(source)
    ids: set[str] = set()
    for line, fields in read_objects(path):
        id = _id(fields, path, line) or str(line)
        if id in ids:
            raise DataError(path, f'the id "{id}" appears a second time; ids must differ.', line)
        ids.add(id)
        title = fields.get("title") or ""
        yield Document(id, f"{title} {text_field(fields, 'text', path, line)}".strip())


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
        return [Path(source)]
    folder, _, split = source.removeprefix("beir:").partition(":")
    names = ["corpus.jsonl", "corpus.jsonl.gz"]
    if split:
        names += ["queries.jsonl", "queries.jsonl.gz", f"qrels/{split}.tsv"]
    return [path for name in names if (path := Path(folder, name)).is_file()]


def _read_jsonl_pairs(path: Path) -> list[Pair]:
    pairs: dict[str, Pair] = {}
    for line, fields in read_objects(path):
        id = _id(fields, path, line) or str(line)
        if id in pairs:
            raise DataError(path, f'the id "{id}" appears a second time; ids must differ.', line)
        source = fields.get("source")
        if source is not None and not isinstance(source, str):
            raise DataError(path, f'field "source" is a {type(source).__name__}; wanted text.', line)
        query = text_field(fields, "query", path, line)
        pairs[id] = Pair(id, query, text_field(fields, "positive", path, line), source)
    return list(pairs.values())


def _id(fields: dict[str, object], path: Path, line: int) -> str | None:
    """`id` or `_id`, or None where the line has neither (it is then named by its number)."""
    id = fields.get("id", fields.get("_id"))
    if id is not None and (not isinstance(id, str | int) or isinstance(id, bool) or id == ""):
        raise DataError(path, 'field "id" is empty or no text; wanted a text or a whole number.', line)
    return None if id is None else str(id)
