"""A guide tells which documents of a batch are too near to a query to be its negatives (GISTEmbed, arXiv 2402.16829).

GISTEmbed encodes each batch with the guide too. Ours is the judge of the grading, whose vectors are kept: no text is
encoded a second time, and batches are planned without the model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from multigrain.model.roles import Role, Vectors
from multigrain.records import GradedTuple
from multigrain.training.in_batch_false_negatives import texts_of

Encoder = Callable[[Sequence[str], Role], Vectors]
"""Texts to (number of texts, d) vectors of length 1."""
Place = tuple[int, int]
"""Of a document in a batch: row and column, where column 0 has the positives."""
QUERIES = 256
"""Queries whose cosines to all documents of a batch are in memory at once."""
TUPLES = 4096
"""Tuples whose vectors are in memory at once, when none is to be missing."""


@dataclass(frozen=True, eq=False)
class Guide:
    """Leave out what the guide finds nearer to a query than its positive, less a margin.

    With g = cos of the guide's vectors, document d of the batch is left out for query q with positive p if

        g(q,d) > g(q,p) - margin * |g(q,p)|,

    GISTEmbedLoss' `margin_strategy="relative"`, whoever's positive or negative d is. Never left out is p itself.

    >>> vectors = {"q": [1.0, 0.0], "p": [0.8, 0.6], "near": [0.78, 0.626], "far": [0.0, 1.0]}
    >>> guide = Guide(lambda texts, role: np.array([vectors[text] for text in texts]), margin=0.05)
    >>> guide.nearer(["q"], [["p", "near", "far"]])
    [{(0, 1)}]
    """

    encoder: Encoder
    margin: float

    def nearer(self, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[set[Place]]:
        """Return for each query of a batch the places of the documents that are left out.

        Args:
            queries: B texts.
            documents: of each query its positive and its negatives, (B, 1 + k) texts.
        """
        columns = len(documents[0])
        of_queries = self.encoder(queries, "query")
        of_documents = self.encoder([text for row in documents for text in row], "document")
        found: list[set[Place]] = []
        for begin in range(0, len(queries), QUERIES):
            cosines = of_queries[begin : begin + QUERIES] @ of_documents.T
            for position, row in enumerate(cosines, begin):
                own = row[position * columns]
                nearer = np.flatnonzero(row > own - self.margin * abs(own)).tolist()
                found.append({divmod(place, columns) for place in nearer} - {(position, 0)})
        return found


def encode_texts(tuples: Iterable[GradedTuple], encoder: Encoder) -> None:
    """Have the encoder see all texts of the tuples, so that it keeps the vectors of those that it has not met yet."""
    rest = iter(tuples)
    while portion := list(islice(rest, TUPLES)):
        encoder([graded.query for graded in portion], "query")
        encoder([text for graded in portion for text in texts_of(graded)], "document")
