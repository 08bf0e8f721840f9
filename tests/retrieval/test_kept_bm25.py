"""The index that is kept finds what bm25s and a full sort find, and is made once for a corpus."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.records import Document
from multigrain.retrieval import kept_bm25 as module
from multigrain.retrieval.bm25 import Words
from multigrain.retrieval.bm25_index import Bm25Index
from multigrain.retrieval.kept_bm25 import NONE, kept_bm25

TEXTS = st.lists(st.sampled_from("cat dog cow owl the".split()), max_size=6).map(" ".join)
CORPORA = st.lists(TEXTS, min_size=1, max_size=12)


def documents_of(texts: Sequence[str]) -> list[Document]:
    """Documents whose ids are in no order."""
    return [Document(f"d{number * 7 % 13}", text) for number, text in enumerate(texts)]


@given(CORPORA, st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 14), st.integers(1, 5))
def test_the_nearest_are_those_of_a_full_sort(texts: list[str], queries: list[str], depth: int, shard: int) -> None:
    documents = documents_of(texts)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD", shard)
        index = kept_bm25(documents, "english", Path(folder))
        found = index.nearest(queries, depth)
        every = np.tile(np.arange(len(texts)), (len(queries), 1))
        scores = index.scores(queries, every)
        exact = Bm25Index(queries, texts, "english")
        rows, columns = np.indices(every.shape)
        wanted = exact.scores(rows.ravel(), columns.ravel()).reshape(every.shape)
        assert scores == pytest.approx(wanted, rel=1e-6)
        for row in range(len(queries)):
            order = sorted(every[row], key=lambda number: (scores[row, number], documents[number].id), reverse=True)
            best = [number for number in order if scores[row, number] > 0][:depth]
            assert found.numbers[row].tolist() == best + [NONE] * (depth - len(best))
            assert found.scores[row, : len(best)].tolist() == scores[row, best].tolist()  # to the last bit


def test_the_scores_are_those_of_bm25s(tmp_path: Path) -> None:
    texts = ["two cats and a dog", "a cat", "owls see cats, dogs and cats", "nothing of it"]
    ids, names = Words("english")(texts)
    host = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    host.index([[names[number] for number in text] for text in ids], show_progress=False)
    index = kept_bm25(documents_of(texts), "english", tmp_path)
    for query, words in (("cats", ["cat"]), ("a dog sees an owl", ["dog", "see", "owl"])):
        assert index.scores([query], np.arange(4)[None])[0] == pytest.approx(host.get_scores(words), rel=1e-6)


def test_what_is_the_query_itself_is_not_found(tmp_path: Path) -> None:
    index = kept_bm25(documents_of(["red cat", "cat", "dog"]), "english", tmp_path)
    assert index.nearest(["red cat", "red cat"], 2, np.array([0, NONE])).numbers.tolist() == [[1, NONE], [0, 1]]


def test_an_index_is_made_once_for_a_corpus_and_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = documents_of(["a cat", "dogs"])
    first = kept_bm25(documents, "english", tmp_path).folder
    monkeypatch.setattr(module, "_make", None)  # to make another would fail
    assert kept_bm25(documents, "english", tmp_path).folder == first
    monkeypatch.undo()
    changed = [kept_bm25(documents, "german", tmp_path), kept_bm25(documents_of(["a cat", "dog"]), "english", tmp_path)]
    changed.append(kept_bm25([Document("other", "a cat"), documents[1]], "english", tmp_path))
    assert len({first, *(index.folder for index in changed)}) == 4
    assert sorted(tmp_path.iterdir()) == sorted({first, *(index.folder for index in changed)})


@pytest.mark.parametrize("damage", ["params.index.json", "vocab.index.json", "indptr.csc.index.npy", "id_ranks.npy"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: str, cut: bool) -> None:
    documents = documents_of(["a cat", "dogs", "cats"])
    index = kept_bm25(documents, "english", tmp_path)
    wanted = index.nearest(["cat"], 3)
    path = index.folder / damage
    os.truncate(path, 5) if cut else path.unlink()
    found = kept_bm25(documents, "english", tmp_path).nearest(["cat"], 3)
    assert found.numbers.tolist() == wanted.numbers.tolist()


def test_an_index_that_is_not_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends between the files; what it had begun is gone with the next index."""

    class Killed(BaseException): ...

    def killed(*_arguments: object, **_options: object) -> None:
        raise Killed

    documents = documents_of(["a cat", "dogs"])
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", killed)
        with pytest.raises(Killed):
            kept_bm25(documents, "english", tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert kept_bm25(documents, "english", tmp_path).nearest(["cat"], 1).numbers.tolist() == [[0]]


def test_a_corpus_is_read_in_a_stream(tmp_path: Path) -> None:
    """Nobody holds all texts: what iterates makes them anew."""

    class Corpus:
        alive = 0

        def __iter__(self) -> Iterator[Document]:
            return (Document(str(number), f"word{number % 50} cat") for number in range(3000))

    index = kept_bm25(Corpus(), "english", tmp_path)
    found = index.nearest(["word7"], 100)
    assert sorted(found.numbers[0][found.numbers[0] != NONE].tolist()) == list(range(7, 3000, 50))
