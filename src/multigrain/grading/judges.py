"""Judges: models that measure how relevant a text is to a query."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multigrain.model.roles import ROLES, Embed, KeepsVectors, Role, Vectors, embed_instructed
from multigrain.records import Pair

Predict = Callable[[list[tuple[str, str]]], ArrayLike]
"""Maps (query, text) pairs to one relevance each, 0 to 1, in their order."""
CHUNK = 256
"""Pairs whose vectors are gathered at once: few enough for the CPU cache."""
MOST_KNOWN = 20_000
"""Texts whose vectors are cached between calls: 30 MB for MiniLM."""


_Text = tuple[Role, str, str | None]
"""A text with its role and, for a query, its instruction."""


class Judge(Protocol):
    """Measures relevance."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the relevance of each text to its query, in the order of the (query, text) pairs."""


class EmbeddingJudge:
    """Relevance = cosine of the embeddings of query and text, -1 to 1. Each distinct text is embedded once per role.

    The cache holds at most `MOST_KNOWN` texts and is then cleared, or a large run would fill the memory.

    Args:
        embed: texts to (number of texts, dimension) vectors of length 1.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._row: dict[_Text, int] = {}
        self._vectors: Vectors = np.empty((0, 0), dtype=np.float32)

    def scores(self, pairs: Sequence[tuple[str, str]], instructions: Sequence[str | None] | None = None) -> list[float]:
        """Return the cosine of each (query, text).

        Args:
            pairs: the queries and texts.
            instructions: the instruction of each query; used if the model of `embed` reads instructions.
        """
        asked = _texts_of(pairs, instructions)
        self._know(asked)
        rows = np.array([self._row[member] for member in asked], dtype=np.intp).reshape(-1, 2)
        scores: list[float] = []
        for start in range(0, len(rows), CHUNK):
            scores += self._cosines(rows[start : start + CHUNK]).tolist()
        return scores

    def request(self, pairs: Sequence[tuple[str, str]], instructions: Sequence[str | None] | None = None) -> None:
        """Start to encode, if the encoder does so ahead, what a later call of `scores` will need."""
        if isinstance(self._embed, KeepsVectors):
            asked = dict.fromkeys(_texts_of(pairs, instructions))
            for role in ROLES:
                members = [member for member in asked if member[0] == role]
                texts, own = [text for _, text, _ in members], [instruction for _, _, instruction in members]
                self._embed.request(texts, role, own if any(own) else None)

    def relevance(self, query: str, text: str) -> float:
        """Return the cosine of one query and text."""
        return self.scores([(query, text)])[0]

    def _cosines(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the dot products, (pairs,), of the vectors in these rows, (pairs, 2)."""
        cosines: NDArray[np.float32] = np.einsum("pd,pd->p", self._vectors[rows[:, 0]], self._vectors[rows[:, 1]])
        return cosines

    def _know(self, asked: Sequence[_Text]) -> None:
        new = [member for member in dict.fromkeys(asked) if member not in self._row]
        if new and len(self._row) + len(new) > MOST_KNOWN:
            self._row, new = {}, list(dict.fromkeys(asked))
        for role in ROLES:
            members = [member for member in new if member[0] == role]
            if members:
                texts, instructions = [text for _, text, _ in members], [own for _, _, own in members]
                is_query = role == "query"
                vectors = embed_instructed(self._embed, texts, instructions) if is_query else self._embed(texts, role)
                self._vectors = np.concatenate([self._vectors, vectors]) if self._row else vectors
                self._row |= {member: row for row, member in enumerate(members, start=len(self._row))}


def judged(judge: Judge, asked: Sequence[tuple[Pair, str]]) -> NDArray[np.float64]:
    """Return the relevance of each text to the query of its pair, (texts,)."""
    pairs = [(pair.query, text) for pair, text in asked]
    if isinstance(judge, EmbeddingJudge):  # the only one whose model may read instructions
        return np.array(judge.scores(pairs, [pair.instruction for pair, _ in asked]), dtype=np.float64)
    return np.array(judge.scores(pairs), dtype=np.float64)


def _texts_of(pairs: Sequence[tuple[str, str]], instructions: Sequence[str | None] | None) -> list[_Text]:
    """Return the texts of pairs: query, text, query, text ..."""
    asked: list[_Text] = []
    for (query, text), instruction in zip(pairs, instructions or [None] * len(pairs), strict=True):
        asked += [("query", query, instruction), ("document", text, None)]
    return asked


class CrossEncoderJudge:
    """Relevance by a model that reads query and text together, 0 to 1. Each distinct pair is scored once.

    Args:
        predict: returns the relevance of pairs, as `multigrain.model.load.load_cross_encoder(...).predict`.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._known: dict[bytes, float] = {}

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the relevance of each (query, text), 0 to 1."""
        keys = [_key(*pair) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        if new:
            predicted = np.asarray(self._predict(list(new.values())), dtype=np.float64)
            self._known.update(zip(new, predicted.tolist(), strict=True))
        return [self._known[key] for key in keys]


def _key(query: str, text: str) -> bytes:
    """Return a digest of a pair of texts, 16 bytes, because the texts would take too much memory."""
    digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\xff" + text.encode("utf-8", "surrogatepass"))  # a byte that never occurs in UTF-8
    return digest.digest()
