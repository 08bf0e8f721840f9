"""The tasks that models are measured on: searches, scored sentence pairs, graded tuples.

    held-out             the run's held-out queries, over its corpus
    beir:FOLDER:SPLIT    a BEIR folder
    sts:FILE             JSON lines with sentence1, sentence2 and their similarity score
    graded:FILE          graded tuples, such as another run's grading/tuples.jsonl
    mteb:NAME            a task or benchmark of the package mteb; see `multigrain.evaluation.mteb_tasks`

Does not import torch.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from multigrain.data.beir import RetrievalTask, read_beir_task
from multigrain.data.field_checks import text_field
from multigrain.data.jsonl import read_objects, read_tuples
from multigrain.data.key_table import text_key
from multigrain.data.record_file import take
from multigrain.data.sources import beir_parts
from multigrain.errors import ConfigError, DataError
from multigrain.records import Document, GradedTuple, Pair, folded

HELD_OUT = "held-out"
LARGEST = 1e100
"""Scores of this size or more, and missing scores, are faults of the file."""
MTEB, STS, GRADED, BEIR = "mteb:", "sts:", "graded:", "beir:"


@dataclass(frozen=True)
class SimilarityTask:
    """Sentence pairs with human similarity scores."""

    name: str
    first: list[str]
    second: list[str]
    scores: list[float]


@dataclass(frozen=True)
class GradedTask:
    """Tuples in which the positive should rank first, followed by the negatives in descending order of grade."""

    name: str
    tuples: list[GradedTuple]


Task = RetrievalTask | SimilarityTask | GradedTask


def load_task(name: str, pairs: Sequence[Pair], documents: Iterable[Document], own: Iterable[Pair] = ()) -> Task:
    """Load the task behind a name in `evaluation.tasks`, except those of mteb.

    Args:
        name: see the module's docstring.
        pairs: the held-out pairs of the run.
        documents: the corpus of the run; iterated over more than once.
        own: queries that are documents of the run's corpus, each with that document.

    Raises:
        DataError: nothing is held out, or a file is wrong.
    """
    if name == HELD_OUT:
        return held_out_task(pairs, documents, own)
    if name.startswith(STS):
        return read_similarity_task(Path(name.removeprefix(STS)))
    if name.startswith(GRADED):
        return read_graded_task(Path(name.removeprefix(GRADED)))
    return read_beir_task(*beir_parts(name))


def with_instruction(task: Task, instruction: str | None) -> Task:
    """Return the task with this instruction for all queries, unless it is None."""
    if instruction is None or not isinstance(task, RetrievalTask):
        return task
    return replace(task, instructions=dict.fromkeys(task.queries, instruction))


def load_queries(name: str, pairs: Sequence[Pair]) -> Task:
    """Load the task behind a name for its queries; "held-out" comes without its documents.

    Raises:
        DataError: see `load_task`.
    """
    if name == HELD_OUT and pairs:
        return RetrievalTask(HELD_OUT, _queries(pairs).texts, [], {})
    return load_task(name, pairs, [])


def files_of_task(name: str) -> list[Path]:
    """Return the file of `sts:FILE` and `graded:FILE`; none for other tasks."""
    return [Path(name.partition(":")[2])] if name.startswith((STS, GRADED)) else []


def name_of(name: str) -> str:
    """Return a task's name in tables: a file goes by its stem, and a file of a run also by the run's name.

    >>> name_of("sts:/data/sickr.jsonl"), name_of("graded:runs/x/grading/tuples.jsonl")
    ('sts:sickr', 'graded:x/tuples')
    """
    if name.startswith((STS, GRADED)):
        form, _, file = name.partition(":")
        path = Path(file)
        is_of_run = path.parent.name == "grading"
        return f"{form}:{path.parent.parent.name}/{path.stem}" if is_of_run else f"{form}:{path.stem}"
    if name.startswith(BEIR):
        folder, split = beir_parts(name)
        return f"{BEIR}{folder.name}:{split}"
    return name


def check_names(names: Sequence[str]) -> None:
    """Check that each name is valid (see `check_name`), and that tables can tell the tasks apart.

    Raises:
        ConfigError: two tasks have the same name.
    """
    known: dict[str, str] = {}
    for name in names:
        check_name(name)
        if (other := known.setdefault(name_of(name), name)) is not name or names.count(name) > 1:
            fault = f'"{other}" and "{name}" would both be called {name_of(name)}; leave one out, or rename its file'
            raise ConfigError("evaluation.tasks", [fault])


def check_name(name: str) -> None:
    """Check that a name has one of the forms, and that its file exists.

    Raises:
        ConfigError: the name has none of the forms.
        DataError: there is no such file.
    """
    if name.startswith((STS, GRADED)):
        if not (path := files_of_task(name)[0]).is_file():
            found = "is a folder" if path.is_dir() else "there is no such file"
            raise DataError(path, f'{found}; wanted a file of JSON lines, for the task "{name}" of evaluation.tasks.')
    elif name.startswith(BEIR):
        folder, split = beir_parts(name)
        if not (folder / "qrels" / f"{split}.tsv").is_file():
            raise DataError(name, f"there is no {folder / 'qrels' / split}.tsv.")
    elif name != HELD_OUT and not name.startswith(MTEB):
        wanted = '"held-out", beir:FOLDER:SPLIT, sts:FILE, graded:FILE or mteb:NAME'
        raise ConfigError("evaluation.tasks", [f'found "{name}"; wanted {wanted}'])


def is_searched(document: Document) -> bool:
    """Return whether held-out queries search the document: it is not for training only."""
    return document.split != "train"


@dataclass(frozen=True)
class Searched:
    """The documents that are not for training only."""

    documents: Iterable[Document]

    def __iter__(self) -> Iterator[Document]:
        return filter(is_searched, self.documents)


def held_out_task(pairs: Sequence[Pair], documents: Iterable[Document], own: Iterable[Pair] = ()) -> RetrievalTask:
    """Find the positives of each held-out query among the documents that are not for training only.

    Raises:
        DataError: nothing is held out.
    """
    if not pairs:
        raise DataError("evaluation.tasks", '"held-out" needs held-out pairs, and there are none; raise data.held_out')
    return search_task(HELD_OUT, pairs, Searched(documents), own)


def search_task(
    name: str, pairs: Sequence[Pair], documents: Iterable[Document], own: Iterable[Pair] = ()
) -> RetrievalTask:
    """Find the positives of each query among some documents.

    A query in several pairs has several relevant documents; with another instruction, it is another query. The
    document that is the query itself, according to `own`, is not ranked, unless it is relevant.

    Args:
        name: name of the task.
        pairs: each query with a document.
        documents: the documents to search, including all positives.
        own: queries that are documents, each with that document.
    """
    queries = _queries(pairs)
    itself: dict[str, int] = {}  # query id -> text key of the document that is the query
    of_text: dict[int, list[str]] = {}
    for (text, _), query_id in queries.ids.items():
        of_text.setdefault(text, []).append(query_id)
    for pair in own:
        for query_id in of_text.get(text_key(pair.query), ()):
            itself[query_id] = text_key(pair.positive)
    document_ids = _ids_by_text(documents, {*(text_key(pair.positive) for pair in pairs), *itself.values()})
    relevance: dict[str, dict[str, int]] = {}
    for pair in pairs:
        relevant = relevance.setdefault(queries.ids[text_key(pair.query), pair.instruction], {})
        relevant[document_ids[text_key(pair.positive)]] = 1
    left_out: dict[str, str] = {}
    for query_id, document in itself.items():
        if document in document_ids and document_ids[document] not in relevance[query_id]:
            left_out[query_id] = document_ids[document]
    return RetrievalTask(name, queries.texts, documents, relevance, left_out, queries.instructions)


def _ids_by_text(documents: Iterable[Document], wanted: Set[int]) -> dict[int, str]:
    """Return `text_key` -> id of the documents with these texts; of several with one text, the last."""
    ids: dict[int, str] = {}
    for document in documents:
        key = text_key(document.text)
        if key in wanted:
            ids[key] = document.id
    return ids


class _Queries(NamedTuple):
    """The distinct queries; a text with two instructions is two queries."""

    texts: dict[str, str]
    """Id of the query's first pair -> text."""
    instructions: dict[str, str]
    """Id -> instruction, for queries that have one."""
    ids: dict[tuple[int, str | None], str]
    """`text_key` and instruction -> id."""


def _queries(pairs: Iterable[Pair]) -> _Queries:
    queries = _Queries({}, {}, {})
    for pair in pairs:
        key = text_key(pair.query), pair.instruction
        if key not in queries.ids:
            queries.ids[key] = pair.id
            queries.texts[pair.id] = pair.query
            if pair.instruction is not None:
                queries.instructions[pair.id] = pair.instruction
    return queries


def read_similarity_task(path: Path) -> SimilarityTask:
    """Read a file of scored sentence pairs.

    Raises:
        DataError: the file is missing or wrong (the message names the line), or has fewer than two different scores.
    """
    first, second, scores = [], [], []
    for line, fields in read_objects(path):
        first.append(text_field(fields, "sentence1", path, line))
        second.append(text_field(fields, "sentence2", path, line))
        score = fields.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < LARGEST:
            raise DataError(path, f'"score": found {str(score)[:40]!r}; wanted a number.', line)
        scores.append(float(score))
    if len(set(scores)) < 2:
        raise DataError(path, f"{len(scores)} pairs with {len(set(scores))} different scores; nothing can be ranked.")
    return SimilarityTask(name_of(f"{STS}{path}"), first, second, scores)


def read_graded_task(path: Path) -> GradedTask:
    """Read a file of graded tuples, leaving out those without negatives.

    Raises:
        DataError: the file is missing or wrong, or no tuple has a negative.
    """
    tuples = [graded for graded in read_tuples(path) if graded.negatives]
    if not tuples:
        raise DataError(path, "no tuple has a negative.")
    counts = Counter(graded.id for graded in tuples)
    if twice := [id for id, count in counts.items() if count > 1]:
        raise DataError(path, f'the id "{twice[0]}" appears {counts[twice[0]]} times; ids must differ.')
    return GradedTask(name_of(f"{GRADED}{path}"), tuples)


def _queries_of(task: Task) -> dict[str, str]:
    """Return the queries of a task by id; training must not have seen them."""
    if isinstance(task, RetrievalTask):
        return task.queries
    return {graded.id: graded.query for graded in task.tuples} if isinstance(task, GradedTask) else {}


def check_unseen(task: Task, train: Iterable[Pair]) -> None:
    """Check that no query of the task was trained on.

    Raises:
        DataError: some were; the message names the first.
    """
    queries = {id: folded(text) for id, text in _queries_of(task).items()}
    asked = set(queries.values())
    seen = {query: pair.id for pair in train if asked and (query := folded(pair.query)) in asked}
    leaked = [(id, seen[query]) for id, query in queries.items() if query in seen]
    if leaked:
        query_id, pair_id = leaked[0]
        raise DataError(
            task.name,
            f"{len(leaked)} of its queries are also in the training pairs (query {query_id} is that of pair "
            f"{pair_id}). Remove these pairs, or set data.drop_leaked = true to train without them.",
        )


def without_queries_of(task: Task, train: Sequence[Pair]) -> Sequence[Pair]:
    """Return the pairs whose query is not a query of the task."""
    asked = {folded(query) for query in _queries_of(task).values()}
    return take(train, np.array([folded(pair.query) not in asked for pair in train], dtype=bool))


def texts_of(task: GradedTask) -> list[str]:
    """Return the positive and the negatives of each tuple, one tuple after another."""
    texts: list[str] = []
    for graded in task.tuples:
        texts.append(graded.positive)
        texts += [negative.text for negative in graded.negatives]
    return texts
