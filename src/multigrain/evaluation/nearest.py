"""Find the exact nearest documents of each query, in one pass over a corpus that need not fit into memory."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigrain.data.blocks import blocks
from multigrain.data.record_file import Numbers, Spool
from multigrain.model.roles import Embed, Vectors
from multigrain.records import Document
from multigrain.retrieval.runs_of_equals import ranks_in_runs

BLOCK = 16_384
"""Documents whose texts and vectors are in memory at once."""
QUERIES = 256
"""Queries whose similarities to a block are in memory at once."""
NONE = -1
"""Number that stands for no document."""


@dataclass(frozen=True)
class Nearest:
    """The k nearest documents of Q queries.

    Attributes:
        cosines: (Q, k) cosines, descending; minus infinity where there are fewer than k documents.
        numbers: (Q, k) positions of these documents in the corpus, or `NONE`.
        ids: ids of all documents, in a file, as UTF-8.
        wanted: (Q, m) cosines of the documents that were asked for; 0 where there is none.
    """

    cosines: Vectors
    numbers: Numbers
    ids: Spool
    wanted: Vectors

    def id(self, number: int) -> str:
        """Return the id of a document."""
        return self.ids[number].decode("utf-8", "surrogatepass")

    def ranked(self) -> list[list[tuple[float, str]]]:
        """Return (cosine, id) of the documents of each query, best first."""
        return [
            [(cosine, self.id(number)) for cosine, number in zip(*row, strict=True) if number != NONE]
            for row in zip(self.cosines.tolist(), self.numbers.tolist(), strict=True)
        ]


def nearest(
    queries: Vectors,
    documents: Iterable[Document],
    embed: Embed,
    k: int,
    block: int = BLOCK,
    wanted: Numbers | None = None,
) -> Nearest:
    """Find the k documents with the highest cosine for each query, best first.

    Of documents with the same cosine, the greater id comes first, as in trec_eval. Memory holds a block of documents,
    Q k numbers and cosines, and 8 bytes for each document.

    Args:
        queries: (Q, d) vectors of length 1.
        documents: the corpus, read once.
        embed: encodes the documents.
        k: number of documents per query.
        block: number of documents in memory at once; fewer if they are long.
        wanted: (Q, m) numbers of documents, or `NONE`, whose cosines are returned in any case.
    """
    best = _Best(len(queries), k)
    asked = _Asked(np.empty((len(queries), 0), dtype=np.int64) if wanted is None else wanted)
    for portion in blocks(documents, block):
        vectors = embed([document.text for document in portion], "document")
        first = best.take_ids(portion)
        by_id = sorted(range(len(portion)), key=lambda place: portion[place].id, reverse=True)
        ranks = np.argsort(by_id)
        asked.turn_to(first, len(portion))
        for start in range(0, len(queries), QUERIES):
            rows = slice(start, start + QUERIES)
            pairs = asked.pairs(rows)
            found = _candidates(queries[rows], vectors, k, best.cosines[rows, -1], pairs)
            asked.take(found.asked)
            order = np.lexsort((ranks[found.columns], found.rows))
            best.offer(found.rows[order] + start, found.cosines[order], found.columns[order] + first)
    best.sort()
    return Nearest(best.cosines, best.numbers, best.ids, asked.cosines)


class Pairs(NamedTuple):
    """Pairs of a query and a document of a block, by row and column."""

    rows: Numbers
    columns: Numbers


NO_PAIRS = Pairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


class _Asked:
    """Documents whose cosines are asked for, as (Q, m) numbers; those in a block are found by bisection."""

    def __init__(self, numbers: Numbers) -> None:
        self.cosines = np.zeros(numbers.shape, dtype=np.float32)
        self._numbers = numbers.ravel()
        self._order = np.argsort(self._numbers, kind="stable")
        self._sorted = self._numbers[self._order]
        self._width = numbers.shape[1]
        self._places = self._of_rows = np.empty(0, dtype=np.int64)
        self._first = 0

    def turn_to(self, first: int, count: int) -> None:
        """Turn to a block: `count` documents from the number `first` on."""
        start, end = np.searchsorted(self._sorted, [first, first + count])
        self._places, self._first = np.sort(self._order[start:end]), first

    def pairs(self, rows: slice) -> Pairs:
        """Return the pairs asked for of some queries with documents of the block; rows count from the first query."""
        start, end = np.searchsorted(self._places, [rows.start * self._width, rows.stop * self._width])
        self._of_rows = self._places[start:end]
        places = self._of_rows // max(self._width, 1) - rows.start
        return Pairs(places, self._numbers[self._of_rows] - self._first)

    def take(self, cosines: Vectors) -> None:
        """Store the cosines of the pairs that were returned last."""
        self.cosines.ravel()[self._of_rows] = cosines


@dataclass(frozen=True)
class _Candidates:
    """Documents of a block that may be among the nearest: rows of queries, columns of the block, cosines.

    `asked` holds the cosines of the pairs that were asked for.
    """

    rows: Numbers
    columns: Numbers
    cosines: Vectors
    asked: Vectors


def _candidates(queries: Vectors, vectors: Vectors, k: int, least: Vectors, pairs: Pairs = NO_PAIRS) -> _Candidates:
    """Return the documents that reach both `least`, (queries,), and the k-th greatest cosine of the block."""
    torch = sys.modules.get("torch")  # imported if anything was encoded on a GPU; else not worth importing
    if torch is not None and torch.cuda.is_available():
        return candidates_on(torch.device("cuda"), queries, vectors, k, least, pairs)
    similarity = queries @ vectors.T
    inside = similarity >= least[:, None]
    crowded = inside.sum(axis=1) > 2 * k
    if crowded.any() and k < len(vectors):
        rows = similarity[crowded]
        inside[crowded] &= rows >= np.partition(rows, -k, axis=1)[:, -k, None]
    places = np.flatnonzero(inside)
    found_rows, columns = np.divmod(places, len(vectors))
    return _Candidates(found_rows, columns, similarity.ravel()[places], similarity[pairs])


def candidates_on(
    device: Any, queries: Vectors, vectors: Vectors, k: int, least: Vectors, pairs: Pairs = NO_PAIRS
) -> _Candidates:
    """Do what `_candidates` does on a torch device; the products may differ in the last bit."""
    torch: Any = sys.modules["torch"]
    similarity = torch.from_numpy(queries).to(device) @ torch.from_numpy(vectors).to(device).T
    bound = torch.from_numpy(np.ascontiguousarray(least)).to(device)
    if k < len(vectors):
        bound = torch.maximum(bound, similarity.topk(k, dim=1).values[:, -1])
    rows, columns = (similarity >= bound[:, None]).nonzero(as_tuple=True)
    asked = similarity[tuple(torch.from_numpy(part).to(device) for part in pairs)].cpu().numpy()
    return _Candidates(rows.cpu().numpy(), columns.cpu().numpy(), similarity[rows, columns].cpu().numpy(), asked)


class _Best:
    """The nearest documents of each query so far, (queries, k): descending cosines, and numbers."""

    def __init__(self, queries: int, k: int) -> None:
        self.cosines = np.full((queries, k), -np.inf, dtype=np.float32)
        self.numbers = np.full((queries, k), NONE, dtype=np.int64)
        self.ids = Spool()

    def take_ids(self, documents: Iterable[Document]) -> int:
        """Store the ids of the next documents; return the number of the first."""
        first = len(self.ids)
        for document in documents:
            self.ids.append(document.id.encode("utf-8", "surrogatepass"))
        return first

    def offer(self, rows: Numbers, cosines: Vectors, numbers: Numbers) -> None:
        """Merge in documents of a block; rows ascend, and the documents of a row come in descending order of id."""
        k = self.cosines.shape[1]
        rows, cosines, numbers, _ = _ordered(rows, cosines, numbers, k)
        touched = np.unique(rows)
        known = self.numbers[touched] != NONE
        rows = np.concatenate([np.repeat(touched, known.sum(axis=1)), rows])
        cosines = np.concatenate([self.cosines[touched][known], cosines])
        numbers = np.concatenate([self.numbers[touched][known], numbers])
        for row in self._torn(rows, cosines):
            inside = np.flatnonzero(rows == row)
            by_id = sorted(inside.tolist(), key=lambda place: self._rank(cosines[place], numbers[place]), reverse=True)
            cosines[inside], numbers[inside] = cosines[by_id], numbers[by_id]
        rows, cosines, numbers, ranks = _ordered(rows, cosines, numbers, k)
        self.cosines[rows, ranks], self.numbers[rows, ranks] = cosines, numbers

    def _torn(self, rows: Numbers, cosines: Vectors) -> list[int]:
        """Return the rows in which the k nearest hold only some of the documents with one cosine."""
        k = self.cosines.shape[1]
        rows, cosines, _, ranks = _ordered(rows, cosines, rows, k + 1)
        last = np.flatnonzero(ranks == k)
        torn: list[int] = rows[last[cosines[last] == cosines[last - 1]]].tolist()
        return torn

    def sort(self) -> None:
        """Sort documents of the same cosine by their ids."""
        alike = (self.cosines[:, 1:] == self.cosines[:, :-1]) & (self.numbers[:, 1:] != NONE)
        for row in np.flatnonzero(alike.any(axis=1)).tolist():
            count = int((self.numbers[row] != NONE).sum())
            cosines, numbers = self.cosines[row], self.numbers[row]
            order = sorted(range(count), key=lambda place: self._rank(cosines[place], numbers[place]), reverse=True)
            self.cosines[row, :count], self.numbers[row, :count] = cosines[order], numbers[order]

    def _rank(self, cosine: Any, number: Any) -> tuple[float, str]:
        return float(cosine), self.ids[int(number)].decode("utf-8", "surrogatepass")


def _ordered(
    rows: Numbers, cosines: Vectors, numbers: Numbers, most: int
) -> tuple[Numbers, Vectors, Numbers, NDArray[np.int64]]:
    """Sort by row and descending cosine, stably; keep at most `most` per row, with their ranks from 0."""
    order = np.lexsort((-cosines, rows))
    rows = rows[order]
    ranks = ranks_in_runs(rows)
    kept = ranks < most
    order = order[kept]
    return rows[kept], cosines[order], numbers[order], ranks[kept]
