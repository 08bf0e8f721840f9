"""In-batch false negatives: documents of other tuples in a batch that are known not to be negatives of a query.

`multigrain.data.known_false_negatives.FalseNegatives` decides before there are tuples whether a candidate may be a
negative of a pair. It stores 16 bytes per text, because it covers the whole corpus. This module covers only the texts
of the tuples. It stores sets of `identity` values, which planning uses to build a batch and compare its columns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from multigrain.records import Document, GradedTuple, Pair, identity


@dataclass(frozen=True)
class InBatchFalseNegatives:
    """Known relations between the texts of the tuples, each text represented by its `identity`."""

    answers: Mapping[bytes, frozenset[bytes]]
    """All known positives of each query that has several."""
    groups: Mapping[bytes, frozenset[str]]
    """The groups of each document that has at least one."""


def known_false_negatives(
    tuples: Sequence[GradedTuple], pairs: Iterable[Pair] = (), documents: Iterable[Document] = ()
) -> InBatchFalseNegatives:
    """Collect the known positives and groups of the tuples' texts, from the tuples and from the rest of the input.

    Args:
        tuples: the training tuples.
        pairs: all pairs of the input, whether they are trained on or not.
        documents: the corpus, whose documents may have groups.
    """
    answers: dict[bytes, set[bytes]] = {identity(graded.query): set() for graded in tuples}
    groups: dict[bytes, set[str]] = {}
    if any(graded.group for graded in tuples):
        groups = {identity(text): set() for graded in tuples for text in texts_of(graded)}
    both: Iterator[GradedTuple | Pair] = chain(tuples, pairs)
    for pair in both:
        if (known := answers.get(identity(pair.query))) is not None:
            known.add(identity(pair.positive))
        if groups and pair.group:
            for text in (pair.query, pair.positive):
                groups.get(identity(text), set()).add(pair.group)
    for document in documents if groups else ():
        if document.groups:
            groups.get(identity(document.text), set()).update(document.groups)
    return InBatchFalseNegatives(
        {query: frozenset(texts) for query, texts in answers.items() if len(texts) > 1},
        {text: frozenset(names) for text, names in groups.items() if names},
    )


def texts_of(graded: GradedTuple) -> list[str]:
    """Return the documents of a tuple: its positive, then its negatives."""
    return [graded.positive, *(negative.text for negative in graded.negatives)]
