"""In-batch false negatives: which other tuples' documents in a batch are known to be no negatives of a query.

`multigrain.data.known_false_negatives.FalseNegatives` judges texts of the corpus before there are tuples: is this
candidate a negative of that pair? It keeps 16 bytes a text, because it sees the whole corpus. This module looks at
the texts of the tuples alone, and keeps sets by `identity`, with which a batch is planned and its columns are
compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from multigrain.records import Document, GradedTuple, Pair, identity


@dataclass(frozen=True)
class InBatchFalseNegatives:
    """The known relations between the texts of the tuples; each text is named by its `identity`."""

    answers: Mapping[bytes, frozenset[bytes]]
    """All known positives of each query that has several."""
    groups: Mapping[bytes, frozenset[str]]
    """The groups of each document that has any."""


def known_false_negatives(
    tuples: Sequence[GradedTuple], pairs: Iterable[Pair] = (), documents: Iterable[Document] = ()
) -> InBatchFalseNegatives:
    """Collect what the tuples themselves and the rest of the input say about the texts of the tuples.

    Args:
        tuples: what is trained on.
        pairs: all that the input has, trained on or not.
        documents: the corpus, which may say of which group a document is.
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
        if document.group:
            groups.get(identity(document.text), set()).add(document.group)
    return InBatchFalseNegatives(
        {query: frozenset(texts) for query, texts in answers.items() if len(texts) > 1},
        {text: frozenset(names) for text, names in groups.items() if names},
    )


def texts_of(graded: GradedTuple) -> list[str]:
    """Return the documents of a tuple: its positive, then its negatives."""
    return [graded.positive, *(negative.text for negative in graded.negatives)]
