"""What is known to be no negative of a query: its answers, and the texts of its group."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from multigrain.records import Document, GradedTuple, Pair, identity


@dataclass(frozen=True)
class Known:
    """Of the queries and documents of the tuples; texts are named by their `identity`."""

    answers: Mapping[bytes, frozenset[bytes]]
    """All known positives of each query that has several."""
    groups: Mapping[bytes, frozenset[str]]
    """The groups of each document that has any."""


def known_of(tuples: Sequence[GradedTuple], pairs: Iterable[Pair] = (), documents: Iterable[Document] = ()) -> Known:
    """What the tuples themselves say, and what more the input says about their texts.

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
    return Known(
        {query: frozenset(texts) for query, texts in answers.items() if len(texts) > 1},
        {text: frozenset(names) for text, names in groups.items() if names},
    )


def texts_of(graded: GradedTuple) -> list[str]:
    """The documents of a tuple."""
    return [graded.positive, *(negative.text for negative in graded.negatives)]
