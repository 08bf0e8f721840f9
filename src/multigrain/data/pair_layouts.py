"""Common forms of pairs and negatives, recognized by the fields of a row and read into one `Example`.

columns        a column for the query, one for its positive(s), and any number for negatives: multigrain's pairs and
               tuples, E5's triplets, sentence-transformers' columns and the output of `mine_hard_negatives`
labels         a query, a text or a list of texts, and a label or a list of labels (1 = positive, 0 = negative)
FlagEmbedding  query, pos, neg
Tevatron       query, positive_passages, negative_passages
"""

import pickle
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from multigrain.data.field_checks import names_of
from multigrain.data.fields import (
    BY_ROWS,
    ID_NAMES,
    Given,
    group_of,
    has_empty_label,
    id_of,
    instruction_of,
    is_named,
    labels_of,
    negatives_of,
    optional_of,
    passages_of,
    refuse_columns,
    text_of,
    texts_of,
)
from multigrain.data.key_table import KeyTable, exact_key
from multigrain.data.record_file import Spool
from multigrain.data.row_files import Row
from multigrain.errors import DataError
from multigrain.terminal import say

PAIRED_NAMES = (
    ("query", "positives"),
    ("query", "positive"),
    ("anchor", "positive"),
    ("user_query", "positive_document"),
    ("question", "answer"),
    ("query", "answer"),
    ("question", "positive"),
)
"""Column names of the query and its positive; the first entry that a row has is taken."""
NEGATIVE_NAME = re.compile(r"negatives?|negative_\d+|(hard_)?negative_documents?")
MORE_NAMES = {"label", "labels", "score", "scores"}
PLAIN_NAMES = {*ID_NAMES, "source", "instruction", "task", "group", *MORE_NAMES}

KNOWN_FORMS = """known forms, by their fields:
  pairs                  query, positive (or anchor, positive; or question, answer)
  tuples, HF dataset     query, positive, negatives: texts, or {text, grade, score, source}
  triplets               query, positive, negative (or anchor, positive, negative)
  E5                     user_query, positive_document, hard_negative_document
  sentence-transformers  anchor, positive, negative_1 .. negative_n; or anchor, positive, label; or lists and labels
  FlagEmbedding          query, pos, neg
  Tevatron               query, positive_passages, negative_passages"""


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its positives and negatives. A positive may have its own id; a row of labels may have no positive.

    Negatives may be blank, repeated or equal to a positive; these are removed when pairs are built.
    """

    query: str
    positives: tuple[tuple[str | None, str], ...]
    negatives: tuple[Given, ...]
    id: str | None = None
    source: str | None = None
    instruction: str | None = None
    task: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """The form of the rows of a file: the function that reads them, and the columns of query and text."""

    read: Callable[[Row, str, str], Example]
    query: str
    text: str


def read_examples(rows: Iterable[Row], folder: Path | None = None) -> Iterator[tuple[Row, Example]]:
    """Yield each row with its example. Rows of labels are merged by query.

    The first row determines the form of all rows; if its label is empty, the first row with a label does.

    Args:
        rows: the rows of one file or folder.
        folder: folder for a temporary file.

    Raises:
        DataError: a row is malformed.
    """
    rows = iter(rows)
    head: list[Row] = []
    for row in rows:
        head.append(row)
        if not has_empty_label(row.fields):
            break
    if not head:
        return iter(())
    form = recognise(head[-1])
    examples = ((row, form.read(row, form.query, form.text)) for row in chain(head, rows))
    return _by_query(examples, folder) if form.read is _read_labels else examples


def recognise(row: Row) -> Form:
    """Return the form of rows with the fields of this one.

    Raises:
        DataError: no form has these fields, or more than one has.
    """
    forms = _matching(row.fields)
    if len(forms) == 1:
        refuse_columns(row, forms[0].query)
        return forms[0]
    found = names_of(row.fields)
    raise DataError(row.where, f"{_fault(row.fields, forms)}; fields found: {found}.\n{KNOWN_FORMS}")


def _matching(fields: dict[str, Any]) -> list[Form]:
    forms = []
    if "query" in fields and _is_flagembedding(fields):
        forms.append(Form(_read_flagembedding, "query", "pos"))
    if "query" in fields and isinstance(fields.get("positive_passages"), list):
        forms.append(Form(_read_tevatron, "query", "positive_passages"))
    if (names := _column_names(fields)) and not _is_scored_pair(fields):
        is_label = fields.keys() & {"label", "labels"} and not is_named(fields) and not has_empty_label(fields)
        has_labels = is_label or _is_ranked(fields, names[1])
        forms.append(Form(_read_labels if has_labels else _read_columns, *names))
    return forms


def _is_flagembedding(fields: dict[str, Any]) -> bool:
    """Return whether `pos` holds the positives of FlagEmbedding.

    A list always does. A text does if no other field can be the positive; otherwise `pos` may be a mere tag.
    """
    if isinstance(fields.get("pos"), str):
        return "neg" in fields or fields.keys() <= {"query", "pos", "prompt", *PLAIN_NAMES}
    return isinstance(fields.get("pos"), list)


def _fault(fields: dict[str, Any], forms: list[Form]) -> str:
    if forms:
        return "fields of several forms"
    if _is_table(fields):
        return f"a table in one object; {BY_ROWS.rstrip('.')}"
    if _is_scored_pair(fields):
        return (
            "a score without a label does not say which texts are positives (mine again with output_scores=False, "
            'or with output_format="n-tuple")'
        )
    if "query" in fields:
        return 'no field "positive"'
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and not NEGATIVE_NAME.fullmatch(name):
            return f'one object with its rows in "{name}"; give the list alone, as from: jq .{name} FILE'
    return "no known form"


def _is_table(fields: dict[str, Any]) -> bool:
    """Return whether it is a whole table as pandas writes it: columns by name, rows by index, or split into parts."""
    if not all(isinstance(value, dict) for value in fields.values()):
        return fields.keys() >= {"columns", "data"}
    return len({tuple(value) for value in fields.values()}) == 1


def _column_names(fields: dict[str, Any]) -> tuple[str, str] | None:
    """Return the columns of the query and of its texts.

    Columns of other names are taken, as in sentence-transformers, if exactly two of them stand beside negatives,
    labels or scores.
    """
    for query, positive in PAIRED_NAMES:
        if query in fields and positive in fields:
            return query, positive
    has_more = any(name in MORE_NAMES or NEGATIVE_NAME.fullmatch(name) for name in fields)
    names = [name for name in fields if name not in PLAIN_NAMES and not NEGATIVE_NAME.fullmatch(name)]
    return (names[0], names[1]) if has_more and len(names) == 2 else None


def _is_scored_pair(fields: dict[str, Any]) -> bool:
    """Return whether it is a row of `mine_hard_negatives(output_format="labeled-pair", output_scores=True)`."""
    return len(fields) == 3 and "score" in fields and _column_names(fields) is not None


def _is_ranked(fields: dict[str, Any], text: str) -> bool:
    """Return whether it is a row of `mine_hard_negatives(output_format="labeled-list", output_scores=True)`.

    In such a row the positive comes first.
    """
    return "scores" in fields and text != "positives" and isinstance(fields[text], list)


def _by_query(examples: Iterable[tuple[Row, Example]], folder: Path | None) -> Iterator[tuple[Row, Example]]:
    """Merge the rows of each query; leave out queries without a positive, with a message."""
    read, numbers, queries = Spool(folder), array("I"), KeyTable()
    for row, example in examples:
        read.append(pickle.dumps((Row(row.number, row.where, {}), example)))
        numbers.append(queries.setdefault(exact_key(example.query), len(queries)))
    of_query = np.asarray(numbers)
    order = iter(np.argsort(of_query, kind="stable").tolist())
    left_out = 0
    for count in np.bincount(of_query).tolist():
        found = [_loaded(read[place]) for place in islice(order, count)]
        if whole := _put_together(found):
            yield found[0][0], whole
        else:
            left_out += 1
    if left_out:
        say(f"  {left_out} queries have no positive and are left out")


def _loaded(content: bytes) -> tuple[Row, Example]:
    found: tuple[Row, Example] = pickle.loads(content)  # noqa: S301 (we wrote it, and no one else has the file)
    return found


def _put_together(found: Sequence[tuple[Row, Example]]) -> Example | None:
    """Merge all rows of a query into one example; None if none has a positive."""
    positives: dict[tuple[str | None, str], None] = {}  # an ordered set
    negatives: list[Given] = []
    for _, example in found:
        positives.update(dict.fromkeys(example.positives))
        negatives += example.negatives
    if not positives:
        return None
    group = next(example.group for _, example in found if example.positives)  # a negative has its own group
    return replace(found[0][1], positives=tuple(positives), negatives=tuple(negatives), group=group)


# The forms.


def _read_columns(row: Row, query: str, text: str) -> Example:
    negatives: list[Given] = []
    for name in row.fields:
        if NEGATIVE_NAME.fullmatch(name):
            negatives += negatives_of(row, name)
    positives = [(None, positive) for positive in texts_of(row, text)]
    return _example(row, query, positives, negatives)


def _read_flagembedding(row: Row, query: str, text: str) -> Example:
    positives = [(None, positive) for positive in texts_of(row, text)]
    return _example(row, query, positives, negatives_of(row, "neg"), instruction="prompt")


def _read_tevatron(row: Row, query: str, text: str) -> Example:
    positives = passages_of(row, text)
    if not positives or not all(positive for _, positive in positives):
        raise DataError(row.where, f'field "{text}" is empty, or a passage in it has no text; wanted passages.')
    if len(positives) == 1:  # the query's id then names the pair
        positives = [(None, positives[0][1])]
    return _example(row, query, positives, [Given(text) for _, text in passages_of(row, "negative_passages")])


def _read_labels(row: Row, query: str, text: str) -> Example:
    """Read a text with its label, a list of texts with labels, or a list with scores and the positive first."""
    texts = texts_of(row, text)
    labels = labels_of(row, len(texts))
    positives: list[tuple[str | None, str]] = []
    negatives: list[Given] = []
    for each, is_positive in zip(texts, labels, strict=True):
        if is_positive:
            positives.append((None, each))
        else:
            negatives.append(Given(each))
    return _example(row, query, positives, negatives)


def _example(
    row: Row,
    query: str,
    positives: Sequence[tuple[str | None, str]],
    negatives: Sequence[Given],
    instruction: str = "instruction",
) -> Example:
    return Example(
        query=text_of(row, query, row.fields.get(query)),
        positives=tuple(positives),
        negatives=tuple(negatives),
        id=id_of(row),
        source=optional_of(row, "source"),
        instruction=instruction_of(row, instruction),
        task=optional_of(row, "task"),
        group=group_of(row),
    )
