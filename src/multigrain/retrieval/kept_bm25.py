"""A BM25 index of a whole corpus, kept in a folder, for queries that are not known in advance.

    corpus -> folder     built once, in blocks, with little of the corpus in memory; the files are those of bm25s
    folder -> rankings   the documents with the highest BM25 for a query, exactly
    folder -> scores     BM25 of a query and some documents

Formula and words are those of `multigrain.retrieval.bm25`. `multigrain.retrieval.bm25_index` takes less space, for
queries that are known in advance.

Letters: N documents, Q queries, V distinct words of the corpus, E pairs of a document and a word in it.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigrain.files import atomic_folder, write_json
from multigrain.records import Document
from multigrain.retrieval.bm25 import K1, B, Words
from multigrain.retrieval.bm25_index import SHARD, Counts, Nearest, Numbers, Scores

NOTE, RANKS = "made_from.json", "id_ranks.npy"
FORM = 1
"""Version of the files; raise it whenever their content changes."""
NONE = -1
"""The number of an absent document."""


class KeptBm25:
    """A BM25 index in a folder. Of documents with equal scores the greater id comes first, as in trec_eval.

    Memory holds the words, and 4 N bytes while a query is answered; the rest of the folder is memory-mapped.

    Args:
        folder: holds the index, see `kept_bm25`.
        language: see `multigrain.retrieval.bm25.Words`.

    Raises:
        OSError, ValueError, LookupError, EOFError: the folder is damaged.
    """

    def __init__(self, folder: Path, language: str) -> None:
        import bm25s  # after `multigrain.retrieval.bm25`, which stops it from importing JAX

        self.folder = folder
        self._words = Words(language)
        self._index = bm25s.BM25.load(folder, mmap=True)
        self.id_ranks: Numbers = np.load(folder / RANKS, mmap_mode="r")
        """(N,) the rank of each document's id among all ids in ascending order."""
        if len(self.id_ranks) != self._index.scores["num_docs"]:
            raise ValueError(f"{folder}: {len(self.id_ranks)} ids of {self._index.scores['num_docs']} documents")

    def nearest(self, queries: Sequence[str], depth: int, own: Numbers | None = None) -> Nearest:
        """Return the `depth` documents with the highest BM25 for each query, of those that share a word with it.

        Args:
            queries: Q texts.
            depth: number of documents wanted.
            own: (Q,) the number of the document that is the query itself, which is skipped, or `NONE`.
        """
        found = Nearest(
            numbers=np.full((len(queries), depth), NONE, dtype=np.int64),
            scores=np.zeros((len(queries), depth), dtype=np.float32),
        )
        for row, words in enumerate(self._numbered(queries)):
            if not words:
                continue
            scores: Scores = self._index.get_scores_from_ids(words)
            if own is not None and own[row] != NONE:
                scores[own[row]] = 0
            best = self._best(scores, depth)
            found.numbers[row, : len(best)], found.scores[row, : len(best)] = best, scores[best]
        return found

    def scores(self, queries: Sequence[str], documents: Numbers) -> Scores:
        """Return the BM25, (Q, k), of each query and some documents by their numbers, (Q, k); 0 for `NONE`."""
        scores = np.zeros(documents.shape, dtype=np.float32)
        data, indices, indptr = (self._index.scores[name] for name in ("data", "indices", "indptr"))
        for row, words in enumerate(self._numbered(queries)):
            for word in words:  # in the order of bm25s, so that the sums are equal to the last bit
                having = indices[indptr[word] : indptr[word + 1]]
                places = np.minimum(np.searchsorted(having, documents[row]), len(having) - 1)
                has = having[places] == documents[row]
                scores[row, has] += data[indptr[word] + places[has]]
        return scores

    def _numbered(self, queries: Sequence[str]) -> list[list[int]]:
        """Return the numbers of the words of each query, without words that no document contains."""
        found, names = self._words(queries)
        known = [self._index.vocab_dict.get(name) for name in names]
        return [_there(known[word] for word in query) for query in found]

    def _best(self, scores: Scores, depth: int) -> Numbers:
        """Return the numbers of the best documents, (at most depth,), by scores, (N,); skip scores of 0."""
        found = np.flatnonzero(scores)
        if len(found) > depth:
            least = np.partition(scores[found], -depth)[-depth]
            found = found[scores[found] >= least]
        order = np.lexsort((-self.id_ranks[found], -scores[found]))[:depth]
        best: Numbers = found[order]
        return best


def kept_bm25(
    documents: Iterable[Document], language: str, parent: Path, making: AbstractContextManager[object] | None = None
) -> KeptBm25:
    """Return the index of a corpus; build it if it is missing or damaged.

    Each index has its own folder, named by a digest of ids, texts and language. Indexes of other corpora stay.

    Args:
        documents: the corpus, iterated over once or twice.
        language: see `multigrain.retrieval.bm25.Words`.
        parent: folder of all indexes. An index is written atomically, so a killed process leaves no partial one.
        making: context, such as a lock, that is entered only while an index is built.

    Raises:
        OSError: the folder cannot be written.
    """
    ids: list[str] = []
    digest = hashlib.sha256(json.dumps([FORM, language, K1, B]).encode())
    for document in documents:
        ids.append(document.id)
        id, text = (part.encode("utf-8", "surrogatepass") for part in (document.id, document.text))
        digest.update(b"%d %d %b%b" % (len(id), len(text), id, text))
    folder = parent / digest.hexdigest()[:16]
    try:
        return KeptBm25(folder, language)
    except (OSError, ValueError, LookupError, TypeError, EOFError):  # missing or damaged
        with making or nullcontext(), atomic_folder(folder) as part:
            _make((document.text for document in documents), ids, language, part)
    return KeptBm25(folder, language)


def _there(numbers: Iterable[int | None]) -> list[int]:
    return [number for number in numbers if number is not None]


def _make(texts: Iterable[str], ids: Sequence[str], language: str, folder: Path) -> None:
    """Write the index of a corpus to an empty folder, in the form of bm25s."""
    import bm25s

    vocabulary: dict[str, int] = {}
    counts = Counts(texts, Words(language), vocabulary, folder, grows=True)
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.vocab_dict, index.nonoccurrence_array = vocabulary, None
    with tempfile.TemporaryFile(dir=folder) as of_data, tempfile.TemporaryFile(dir=folder) as of_indices:
        index.scores = {**_by_word(counts, of_data, of_indices), "num_docs": len(ids)}
        index.save(folder, show_progress=False)
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids))
    np.save(folder / RANKS, ranks)
    write_json(folder / NOTE, {"form": FORM, "language": language, "documents": len(ids)})


def _by_word(counts: Counts, of_data: Any, of_indices: Any) -> dict[str, NDArray[Any]]:
    """Return the matrix, (N, V), of what a word adds to a document's BM25, by columns in two files.

    Columns are filled shard by shard, so that only one shard is in memory.
    """
    indptr = np.append(0, np.cumsum(counts.having))
    data, indices = (
        np.memmap(file, kind, "w+", shape=(int(indptr[-1]),)) if indptr[-1] else np.empty(0, kind)
        for file, kind in ((of_data, np.float32), (of_indices, np.int32))
    )
    heads = indptr[:-1].copy()
    for start in range(0, len(counts), SHARD):
        numbers = np.arange(start, min(start + SHARD, len(counts)))
        shard = counts.weights(numbers).tocsc()
        distinct = np.diff(shard.indptr)[: len(heads)]
        places = np.arange(shard.nnz) + np.repeat(heads - shard.indptr[: len(heads)], distinct)
        data[places], indices[places] = shard.data, shard.indices + start
        heads += distinct
    return {"data": data, "indices": indices, "indptr": indptr}
