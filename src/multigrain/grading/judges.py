"""Whatever measures how relevant a text is to a query."""

from collections.abc import Sequence

from multigrain.vectors import Embed


class EmbeddingJudge:
    """Relevance = cosine of the embeddings of query and text. Each distinct text is embedded once.

    Args:
        embed: texts to (number of texts, dimension) vectors of length 1.
        texts: all texts that will be asked about, queries included.
    """

    def __init__(self, embed: Embed, texts: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(texts))
        self._row = {text: row for row, text in enumerate(distinct)}
        self._vectors = embed(distinct)

    def relevance(self, query: str, text: str) -> float:
        """The cosine, -1 to 1."""
        return float(self._vectors[self._row[query]] @ self._vectors[self._row[text]])
