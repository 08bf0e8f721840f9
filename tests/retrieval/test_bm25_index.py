"""BM25 over counts on disk, against the formula and against bm25s."""

import itertools
from collections import Counter
from math import log
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.retrieval import bm25_index as module
from multigrain.retrieval.bm25 import Words, statistics_of
from multigrain.retrieval.bm25_index import Bm25Index

VOCABULARY = ["cat", "dogs", "tree", "the", "stones", "fish", "ship"]
texts = st.lists(st.sampled_from(VOCABULARY), max_size=7).map(" ".join)
corpora = st.lists(st.none() | texts, max_size=14)
query_lists = st.lists(texts, min_size=1, max_size=4)


def index_of(queries: list[str], documents: list[str | None]) -> Bm25Index:
    return Bm25Index(iter(queries), iter(documents), "english")


def test_bm25_by_hand() -> None:
    """Against the formula, in float64; "the" is a stop word, "ships" and "ship" are one."""
    documents: list[str | None] = [
        "the ships harbour",
        "ship ship garden copper",
        "the garden",
        "copper garden thunder",
    ]
    lengths, counts, holding = [2, 4, 1, 3], [1, 2, 0, 0], 2
    idf = log(1 + (4 - holding + 0.5) / (holding + 0.5))
    scores = [idf * tf / (tf + 1.5 * (0.25 + 0.75 * n / 2.5)) for tf, n in zip(counts, lengths, strict=True)]
    best = [int(number) for number in np.argsort(scores)[::-1] if scores[number] > 0]
    index = index_of(["the ship"], documents)
    found = index.nearest(3)
    assert found.numbers.tolist() == [[*best, -1]]
    assert found.scores.tolist() == [pytest.approx([*(scores[number] for number in best), 0], rel=1e-6)]
    assert index.scores(np.zeros(4, int), np.arange(4)).tolist() == pytest.approx(scores, rel=1e-6)
    # A text that is no document: 2 ships of 3 words.
    other = idf * 2 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2.5))
    assert index.scores_of_texts(np.zeros(1, int), ["ship thunder ship"]).tolist() == pytest.approx([other], rel=1e-6)


def test_equal_scores_rank_in_the_order_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "SHARD", 3)
    documents = [None, "cat", "harbour", "ship harbour", None, "ship harbour", "ship harbour", "stone", "ship harbour"]
    assert index_of(["ship", "the", "garden"], documents).nearest(3).numbers.tolist() == [
        [3, 5, 6],
        [-1] * 3,  # nothing but a stop word
        [-1] * 3,  # a word that no document has
    ]


def test_some_of_the_queries_are_searched_for() -> None:
    index = index_of(["ship", "cat", "dog", "tree"], ["tree", "dog", "cat", "ship"])
    assert index.nearest(1).numbers.tolist() == [[3], [2], [1], [0]]
    assert index.nearest(1, 1, 3).numbers.tolist() == [[2], [1]]
    assert index.nearest(1, 3, 9).numbers.tolist() == [[0]]


def test_a_word_that_stands_in_a_text_more_often_than_is_counted() -> None:
    """Counts are kept in two bytes; one more would be none again."""
    index = index_of(["ship"], ["ship " * 65_536, "ship cat"])
    assert index.nearest(2).scores.min() > 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("queries", [[], [""], ["the", "..."], ["cat"]])
@pytest.mark.parametrize("documents", [[], [None], ["", "..."], [None, "a dog"]])
def test_without_words_nothing_is_found(queries: list[str], documents: list[str | None]) -> None:
    index = index_of(queries, documents)
    assert index.nearest(2).numbers.tolist() == [[-1, -1]] * len(queries)
    numbers = np.arange(len(queries))
    assert index.scores_of_texts(numbers, ["the house"] * len(queries)).tolist() == [0.0] * len(queries)
    if documents and queries:
        assert index.scores(np.array([0]), np.array([0])).tolist() == [0.0]


def test_no_file_is_left(tmp_path: Path) -> None:
    index = Bm25Index(["ship"], ["ship", "cat"], "english", tmp_path)
    assert list(tmp_path.iterdir()) == []  # the file is there, and has no name
    assert index.nearest(1).numbers.tolist() == [[0]]


@settings(max_examples=60)
@given(query_lists, corpora)
def test_the_statistics_are_those_of_the_corpus(queries: list[str], documents: list[str | None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", 3)
        found = index_of(queries, documents).statistics
    expected = statistics_of(queries, (text for text in documents if text is not None), Words("english"))
    assert found.documents == expected.documents
    assert found.length == pytest.approx(expected.length)
    assert {word: count for word, count in found.having.items() if count} == dict(expected.having)


def scores_by_bm25s(queries: list[str], documents: list[str | None]) -> NDArray[np.float64]:
    """(Q, N); what is no document has 0."""
    there = [number for number, text in enumerate(documents) if text is not None]
    ids, names = Words("english")([*(documents[number] or "" for number in there), *queries])
    scores = np.zeros((len(queries), len(documents)))
    if any(ids[: len(there)]):
        theirs = bm25s.BM25(method="lucene")
        theirs.index((ids[: len(there)], {word: n for n, word in enumerate(names)}), show_progress=False)
        for row, query in enumerate(ids[len(there) :]):
            scores[row, there] = theirs.get_scores(query) if query else 0.0
    return scores


@settings(max_examples=80)
@given(query_lists, corpora, st.integers(1, 5), st.sampled_from([1, 3, 100]), st.integers(1, 3))
def test_equal_to_bm25s(queries: list[str], documents: list[str | None], depth: int, shard: int, group: int) -> None:
    expected = scores_by_bm25s(queries, documents)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AT_ONCE": 3, "SHARD": shard, "QUERIES": 2, "GROUP": group}.items():
            patch.setattr(module, name, value)
        index = index_of(queries, documents)
        found = index.nearest(depth)
        rows, columns = (axis.ravel() for axis in np.indices(expected.shape))
        everything = index.scores(rows, columns).reshape(expected.shape)
        of_texts = index.scores_of_texts(rows, [documents[column] or "" for column in columns])
    assert everything == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert of_texts.reshape(expected.shape) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for row, (numbers, scores) in enumerate(zip(found.numbers, found.scores, strict=True)):
        best = np.sort(expected[row])[::-1][:depth]
        assert scores[: len(best)] == pytest.approx(best, rel=1e-5, abs=1e-6)
        assert not scores[len(best) :].any()
        assert ((numbers >= 0) == (scores > 0)).all()
        there = numbers[numbers >= 0]
        assert len(set(there.tolist())) == len(there)
        assert expected[row, there] == pytest.approx(scores[: len(there)], rel=1e-5, abs=1e-6)


two_words = st.lists(st.sampled_from(VOCABULARY), max_size=2, unique=True).map(" ".join)


@settings(max_examples=60)
@given(st.lists(two_words, min_size=1, max_size=4), corpora, st.integers(1, 6))
def test_nothing_hangs_on_how_much_is_looked_at_at_once(
    queries: list[str], documents: list[str | None], depth: int
) -> None:
    """Shards have the statistics of the whole. Two words have one sum, which no order of summation can change."""
    index = index_of(queries, documents)
    whole = index.nearest(depth)
    for shard, common in itertools.product((1, 3, 4), (0, 1)):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"SHARD": shard, "QUERIES": 1, "COMMON": common, "GROUP": 2}.items():
                patch.setattr(module, name, value)
            parts = index.nearest(depth)
        assert parts.scores.tolist() == whole.scores.tolist()
        assert parts.numbers.tolist() == whole.numbers.tolist()


def test_equal_to_the_statistics_formula_on_longer_texts() -> None:
    draw = np.random.default_rng(5)
    names = [f"word{number}" for number in range(60)]
    documents: list[str | None] = [" ".join(draw.choice(names, draw.integers(1, 40))) for _ in range(300)]
    queries = [" ".join(draw.choice(names, draw.integers(1, 6))) for _ in range(20)]
    index, words = index_of(queries, documents), Words("english")
    ids, vocabulary = words([text or "" for text in documents])
    counts = [Counter(vocabulary[number] for number in found) for found in ids]
    found = index.nearest(300)
    for row, query in enumerate(queries):
        (asked,), names_asked = words([query])
        expected = [index.statistics.bm25([names_asked[n] for n in asked], count) for count in counts]
        numbers = found.numbers[row][found.numbers[row] >= 0]
        assert set(numbers.tolist()) == set(np.flatnonzero(expected).tolist())
        assert found.scores[row, : len(numbers)] == pytest.approx([expected[n] for n in numbers], rel=1e-5)
        assert (np.diff(found.scores[row]) <= 0).all()
