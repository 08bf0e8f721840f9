"""Use a guide to find documents of a batch too near to a query to be negatives (GISTEmbed, arXiv 2402.16829).

GISTEmbed encodes each batch with the guide model too. Here the guide is the judge of the grading, whose vectors are
stored: no text is encoded twice, and planning batches needs no model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from multigrain.model.roles import Role, Vectors, embed_instructed, embed_queries
from multigrain.records import GradedTuple
from multigrain.training.in_batch_false_negatives import texts_of

Encoder = Callable[[Sequence[str], Role], Vectors]
"""Maps texts to (number of texts, d) vectors of length 1."""
Place = tuple[int, int]
"""Row and column of a document in a batch; column 0 holds the positives."""
QUERIES = 256
"""Number of queries whose cosines to all documents of a batch are in memory at once."""
TUPLES = 4096
"""Number of tuples whose vectors are in memory at once while all texts are encoded."""


@dataclass(frozen=True, eq=False)
class Guide:
    """Leave out documents that the guide finds nearer to a query than its positive, less a margin.

    With g = cos of the guide's vectors, document d of the batch is left out for query q with positive p if

        g(q,d) > g(q,p) - margin * |g(q,p)|,

    as in GISTEmbedLoss with `margin_strategy="relative"`. This applies to any document of the batch except p.

    >>> vectors = {"q": [1.0, 0.0], "p": [0.8, 0.6], "near": [0.78, 0.626], "far": [0.0, 1.0]}
    >>> guide = Guide(lambda texts, role: np.array([vectors[text] for text in texts]), margin=0.05)
    >>> guide.nearer(["q"], [["p", "near", "far"]])
    [{(0, 1)}]
    """

    encoder: Encoder
    margin: float

    def nearer(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        instructions: Sequence[str | None] | None = None,
    ) -> list[set[Place]]:
        """Return, for each query of a batch, the places of the documents to leave out.

        Args:
            queries: B texts.
            documents: the positive and the negatives of each query, (B, 1 + k) texts.
            instructions: the instruction of each query, if it has one, for a guide that reads instructions.
        """
        columns = len(documents[0])
        of_queries = embed_instructed(self.encoder, queries, instructions or [None] * len(queries))
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
    """Encode all texts of the tuples, so that the encoder stores the vectors of new ones."""
    rest = iter(tuples)
    while portion := list(islice(rest, TUPLES)):
        embed_queries(encoder, portion)
        encoder([text for graded in portion for text in texts_of(graded)], "document")
