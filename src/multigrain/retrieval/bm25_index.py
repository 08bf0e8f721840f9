"""Search a corpus of any size by BM25, for queries that are known before the corpus is read.

    corpus    -> counts      each document is split into words once; its counts of the queries' words go to a
                             temporary file, so that little of the corpus is in memory
    counts    -> nearest     the documents with the highest BM25 for each query, shard by shard
    counts    -> scores      exact BM25 of any query and document

The formula is in `multigrain.retrieval.bm25`. Its statistics are those of the whole corpus.

Letters: Q queries, N documents, V distinct words of the queries, n documents of a shard.
"""

import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from multigrain.retrieval.bm25 import AT_ONCE, K1, B, Statistics, Words
from multigrain.retrieval.parallel import spread
from multigrain.retrieval.runs_of_equals import ranks_in_runs

SHARD = 16_384
"""Documents that are searched at once."""
QUERIES = 128
"""Queries whose scores for a shard are in memory at once."""
COMMON = 1 / 16
"""Share of a shard's documents above which a word is common; common words are scored by one dense product."""

GROUP = 16
"""Documents of a group; its best document stands for all when a bound is estimated."""

Numbers = NDArray[np.int64]
Scores = NDArray[np.float32]
Matrix = Any
"""A sparse matrix of scipy."""


class Nearest(NamedTuple):
    """The best documents for each query, best first."""

    numbers: Numbers
    """(Q, depth) numbers of documents; -1 where no more documents share a word with the query."""
    scores: Scores
    """(Q, depth) BM25; 0 where there is no document."""


class Bm25Index:
    """BM25 index of a corpus for a fixed set of queries.

    Equal scores rank in the order of the corpus.

    Args:
        queries: Q texts.
        documents: N texts, read once; None stands for a document that is never found and not counted.
        language: see `multigrain.retrieval.bm25.Words`.
        folder: folder of the temporary file, which takes about 6 bytes for each word that a document has in common
            with the queries. The file has no name, so nothing is left behind if the process is killed.

    Example:
        >>> index = Bm25Index(["a cat"], ["a dog", "two cats", "cat and dog"], "english")
        >>> index.nearest(depth=3).numbers.tolist()
        [[1, 2, -1]]
    """

    def __init__(
        self, queries: Iterable[str], documents: Iterable[str | None], language: str, folder: Path | None = None
    ) -> None:
        self._words = Words(language)
        self._vocabulary: dict[str, int] = {}
        self._queries = _query_counts(queries, self._words, self._vocabulary)
        self._counts = Counts(documents, self._words, self._vocabulary, folder)

    @property
    def statistics(self) -> Statistics:
        """The statistics of the corpus, for the words of the queries."""
        counts = self._counts
        having = zip(self._vocabulary, counts.having.tolist(), strict=True)
        return Statistics(counts.documents, counts.mean_length, dict(having))

    def nearest(self, depth: int, first: int = 0, last: int | None = None) -> Nearest:
        """Return the `depth` documents with the highest BM25 for each query from number `first` to `last` - 1."""
        queries = self._queries[first:last]
        found = Nearest(
            numbers=np.full((queries.shape[0], depth), -1, dtype=np.int64),
            scores=np.zeros((queries.shape[0], depth), dtype=np.float32),
        )
        with spread() as call:
            for start in range(0, len(self._counts), SHARD):
                numbers = np.arange(start, min(start + SHARD, len(self._counts)))
                shard = _Shard(self._counts.weights(numbers))
                call(_search(shard, start, queries, found), range(0, queries.shape[0], QUERIES))
        return found

    def scores(self, queries: Numbers, documents: Numbers) -> Scores:
        """Return the BM25, (pairs,), of queries and documents by their numbers, (pairs,) each."""
        distinct, places = np.unique(documents, return_inverse=True)
        return _row_products(self._queries[queries], self._counts.weights(distinct)[places])

    def scores_of_texts(self, queries: Numbers, texts: Sequence[str]) -> Scores:
        """Return the BM25, (pairs,), of queries by their numbers, (pairs,), and any texts, (pairs,)."""
        return _row_products(
            self._queries[queries], self._counts.weights_of(_counted(texts, self._words, self._vocabulary))
        )


def _row_products(queries: Matrix, weights: Matrix) -> Scores:
    """Return the dot products, (rows,), of matching rows of two matrices, (rows, V) each."""
    return np.asarray(queries.multiply(weights).sum(axis=1), dtype=np.float32).ravel()


def _query_counts(queries: Iterable[str], words: Words, vocabulary: dict[str, int]) -> Matrix:
    """Return the word counts of the queries, (Q, V), and number their words in `vocabulary`."""
    numbers, ends, rest = array("q"), array("q", [0]), iter(queries)
    while block := list(islice(rest, AT_ONCE)):
        found, names = words(block)
        for query in found:  # in the order of the texts: the order of the names differs between processes
            numbers.extend(vocabulary.setdefault(names[word], len(vocabulary)) for word in query)
            ends.append(len(numbers))
    ones = np.ones(len(numbers))
    shape = (len(ends) - 1, max(len(vocabulary), 1))
    counts = sparse.csr_matrix((ones, np.array(numbers), np.array(ends)), shape=shape)
    counts.sum_duplicates()
    return counts


class Counts:
    """The counts of a vocabulary's words in each document, in a temporary file.

    Args:
        texts: the documents, read once; None stands for a document that is not counted.
        words: splits texts into words.
        vocabulary: the number of each word.
        folder: folder of the temporary file.
        grows: whether words that are not in the vocabulary are added to it.

    Attributes:
        documents: number of documents, without those that are None.
        mean_length: mean number of words of a document.
        having: (V,) number of documents that contain each word.
    """

    def __init__(
        self,
        texts: Iterable[str | None],
        words: Words,
        vocabulary: dict[str, int],
        folder: Path | None,
        grows: bool = False,
    ) -> None:
        self.having = np.zeros(0, dtype=np.int64)
        lengths, ends, self.documents = array("I"), array("q", [0]), 0
        rest = iter(texts)
        with tempfile.TemporaryFile(dir=folder) as of_words, tempfile.TemporaryFile(dir=folder) as of_counts:
            while block := list(islice(rest, AT_ONCE)):
                self.documents += sum(text is not None for text in block)
                counts = _counted(block, words, vocabulary, grows)
                lengths.extend(counts.lengths.tolist())
                ends.extend((ends[-1] + np.cumsum(counts.distinct)).tolist())
                having = np.bincount(counts.words, minlength=len(vocabulary))
                having[: len(self.having)] += self.having
                self.having = having
                of_words.write(counts.words.astype(np.uint32).tobytes())
                of_counts.write(counts.counts.tobytes())
            self._words, self._of_words = _mapped(of_words, np.uint32), _mapped(of_counts, np.uint16)
        self.having = np.pad(self.having, (0, len(vocabulary) - len(self.having)))  # if there are no documents
        self._width = max(len(vocabulary), 1)
        self._ends, self._lengths = np.array(ends), np.array(lengths, dtype=np.float64)
        self.mean_length = float(self._lengths.sum(dtype=np.float64)) / max(self.documents, 1)

    def __len__(self) -> int:
        return len(self._lengths)

    def weights(self, numbers: Numbers) -> Matrix:
        """Return the BM25 that one occurrence of a word in a query adds to each of these documents, (numbers, V)."""
        starts, distinct = self._ends[numbers], self._ends[numbers + 1] - self._ends[numbers]
        ends = np.append(0, np.cumsum(distinct))
        entries = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], distinct)
        return self.weights_of(
            _Counted(self._lengths[numbers], distinct, self._words[entries], counts=self._of_words[entries])
        )

    def weights_of(self, texts: "_Counted") -> Matrix:
        """Return the BM25 that one occurrence of a word in a query adds to each of these texts, (texts, V)."""
        norms = K1 * (1 - B + B * texts.lengths / (self.mean_length or 1.0))
        idf = np.log1p((self.documents - self.having + 0.5) / (self.having + 0.5))
        times = texts.counts.astype(np.float64)
        values = idf[texts.words] * times / (times + np.repeat(norms, texts.distinct))
        ends = np.append(0, np.cumsum(texts.distinct))
        return sparse.csr_matrix((values, texts.words.astype(np.int32), ends), shape=(len(texts.lengths), self._width))


def _mapped(file: Any, kind: type[np.generic]) -> NDArray[Any]:
    """Return the content of a file as a memory map, which stays valid after the file is closed."""
    file.flush()
    return np.memmap(file, kind, "r") if file.tell() else np.empty(0, kind)


class _Counted(NamedTuple):
    """Word counts of some texts."""

    lengths: NDArray[Any]
    """(texts,) number of words of each, with repeats."""
    distinct: Numbers
    """(texts,) number of distinct words of each that are in the vocabulary."""
    words: NDArray[Any]
    """The numbers of these words, text after text, in ascending order."""
    counts: NDArray[np.uint16]
    """How often each of them occurs in its text."""


def _counted(texts: Sequence[str | None], words: Words, vocabulary: dict[str, int], grows: bool = False) -> _Counted:
    """Count the words of texts; None has none. If `grows`, new words get the next numbers."""
    found, names = words([text or "" for text in texts])
    if grows:
        for name in sorted(names):  # the order of the names differs between processes
            vocabulary.setdefault(name, len(vocabulary))
    unknown, width = len(vocabulary), len(vocabulary) + 1
    numbers = np.array([vocabulary.get(name, unknown) for name in names], dtype=np.int64)
    lengths = np.array([len(part) for part in found], dtype=np.int64)
    flat = np.fromiter(_chained(found), dtype=np.int64, count=int(lengths.sum()))
    keys = np.repeat(np.arange(len(texts)), lengths) * width + (numbers[flat] if len(flat) else flat)
    keys, counts = np.unique(keys, return_counts=True)
    rows, of_rows = np.divmod(keys, width)
    known = of_rows < unknown
    distinct = np.bincount(rows[known], minlength=len(texts))
    return _Counted(lengths, distinct, of_rows[known], counts=np.minimum(counts[known], 65_535).astype(np.uint16))


def _chained(parts: Iterable[Sequence[int]]) -> Iterator[int]:
    for part in parts:
        yield from part


class _Shard:
    """Consecutive documents, prepared for search.

    Args:
        weights: (n, V), see `Counts.weights`.
    """

    def __init__(self, weights: Matrix) -> None:
        by_word = weights.T.tocsr()
        having = np.diff(by_word.indptr)
        self._common = np.flatnonzero(having > max(COMMON * weights.shape[0], 1))
        self._dense = by_word[self._common].toarray()
        rare = np.where(having > max(COMMON * weights.shape[0], 1), 0.0, 1.0)
        self._rare = sparse.diags(rare).dot(by_word).tocsr() if len(self._common) else by_word
        self._rare.eliminate_zeros()

    def scores(self, queries: Matrix) -> Scores:
        """Return (queries, n): the BM25 of every document for each query, (queries, V).

        Sums are computed in float64 and rounded, so equal documents have equal scores, in whatever order BLAS adds.
        """
        common = queries[:, self._common]
        used = np.unique(common.indices)
        scores = common[:, used].toarray() @ self._dense[used]
        rare = queries @ self._rare
        starts = np.repeat(np.arange(scores.shape[0]) * scores.shape[1], np.diff(rare.indptr))
        scores.reshape(-1)[starts + rare.indices] += rare.data  # no place occurs twice
        rounded: Scores = scores.astype(np.float32)
        return rounded


def _search(shard: _Shard, start: int, queries: Matrix, found: Nearest) -> Callable[[int], None]:
    """Return a function that searches a shard for the `QUERIES` queries from a given one on and updates `found`."""

    def search(first: int) -> None:
        rows = slice(first, first + QUERIES)
        _merge(Nearest(found.numbers[rows], found.scores[rows]), shard.scores(queries[rows]), start)

    return search


def _merge(best: Nearest, scores: Scores, start: int) -> None:
    """Merge the best documents of a shard into the best so far, in place.

    Args:
        best: (queries, depth).
        scores: (queries, n) of the documents of a shard.
        start: the number of its first document.
    """
    depth = best.scores.shape[1]
    lowest = best.scores[:, -1]  # of equal scores the earlier document ranks first
    found = (scores >= _bound(scores, depth)[:, None]) & (scores > lowest[:, None])
    rows, columns = np.divmod(np.flatnonzero(found), scores.shape[1])
    width = int(np.bincount(rows, minlength=len(scores)).max(initial=0))
    if not width:
        return
    places = ranks_in_runs(rows)
    new_scores = np.zeros((len(scores), width), dtype=np.float32)
    new_numbers = np.full((len(scores), width), -1, dtype=np.int64)
    new_scores[rows, places], new_numbers[rows, places] = scores[rows, columns], columns + start
    all_scores = np.concatenate([best.scores, new_scores], axis=1)
    all_numbers = np.concatenate([best.numbers, new_numbers], axis=1)
    # Earlier documents come first in both parts, so a stable sort keeps equal ones in the order of the corpus.
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :depth]
    best.scores[:] = np.take_along_axis(all_scores, order, axis=1)
    best.numbers[:] = np.take_along_axis(all_numbers, order, axis=1)


def _bound(scores: Scores, depth: int) -> Scores:
    """Return a score for each row, (queries,), that at least `depth` columns reach: close to the highest such score.

    Each of the `depth` best groups has a column that reaches the least of their maxima. This takes a tenth of the time
    of the exact bound.
    """
    groups = scores.shape[1] // GROUP
    if groups < depth:
        return np.full(len(scores), -np.inf, dtype=np.float32)
    best = scores[:, : groups * GROUP].reshape(len(scores), GROUP, groups).max(axis=1)
    bound: Scores = np.partition(best, -depth, axis=1)[:, -depth]
    return bound
