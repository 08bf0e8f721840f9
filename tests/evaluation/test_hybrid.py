"""The hybrid ranks a pool as a full computation ranks the corpus, and says where it does."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.data.beir import RetrievalTask
from multigrain.evaluation import evaluate as evaluate_module
from multigrain.evaluation.evaluate import evaluate, search_of, word_matches
from multigrain.evaluation.hybrid import Pool, WordMatches, pooled
from multigrain.evaluation.nearest import NONE, nearest
from multigrain.model.roles import Role
from multigrain.records import Document
from multigrain.retrieval.kept_bm25 import kept_bm25

TEXTS = st.lists(st.sampled_from("cat dog cow owl".split()), max_size=5).map(" ".join)


def embed_rows(texts: Sequence[str], _role: Role) -> NDArray[np.float32]:
    """A document's vector is that of its number, so that the products are given."""
    return np.eye(16, dtype=np.float32)[[int(text.partition(" ")[0]) for text in texts]]


@given(
    st.lists(TEXTS, min_size=1, max_size=12),
    st.lists(st.tuples(TEXTS, st.lists(st.integers(-4, 4), min_size=16, max_size=16)), min_size=1, max_size=3),
    st.integers(1, 13),
    st.sampled_from([0.0, 0.3, 2.0]),
    st.integers(1, 5),
)
def test_a_pool_ranks_as_the_whole_corpus_where_it_says_so(
    texts: list[str], queries: list[tuple[str, list[int]]], depth: int, weight: float, k: int
) -> None:
    documents = [Document(f"d{n * 5 % 12}", f"{n} {text}") for n, text in enumerate(texts)]
    words = [text for text, _ in queries]
    vectors = np.array([row for _, row in queries], dtype=np.float32) / np.float32(4)
    with TemporaryDirectory() as folder:
        index = kept_bm25(documents, "english", Path(folder))
        matches = WordMatches.of(index, words, np.full(len(words), NONE), depth)
        found = nearest(vectors, documents, embed_rows, depth, block=5, wanted=matches.numbers)
        pool = pooled(found, matches, slice(0, None))
        every = np.tile(np.arange(len(texts)), (len(words), 1))
        scores = index.scores(words, every)
    shares = scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-9)
    hybrid = vectors[:, : len(texts)].astype(np.float64) + weight * shares
    ranked, exact = pool.ranked(weight, k), pool.is_exact(weight, k)
    assert exact.all() or depth <= len(texts)
    for row in np.flatnonzero(exact):
        order = sorted(every[row], key=lambda n: (round(hybrid[row, n], 6), documents[n].id), reverse=True)[:k]
        assert ranked[row][ranked[row] != NONE].tolist() == order


def test_fusion_by_hand() -> None:
    """Ranks 1, 2, 3 by cosine and none, 1, 2 by words: 1/61, 1/62 + 1/61 and 1/63 + 1/62."""
    pool = Pool(
        numbers=np.array([[4, 7, 9, NONE]]),
        cosines=np.array([[0.9, 0.8, 0.7, -np.inf]], dtype=np.float32),
        shares=np.array([[0.0, 1.0, 0.5, 0.0]], dtype=np.float32),
        outside=np.zeros((1, 2), dtype=np.float32),
    )
    assert pool.fused(4).tolist() == [[7, 9, 4, NONE]]
    assert pool.ranked(0.15, 4).tolist() == [[7, 4, 9, NONE]]  # 0.95, 0.9, 0.775


def animals(own: dict[str, str]) -> RetrievalTask:
    documents = [Document("a", "0 cat dog"), Document("b", "1 cat"), Document("c", "2 cow"), Document("d", "3 cat dog")]
    return RetrievalTask("t", {"q": "9 cat dog"}, documents, {"q": {"b": 1}}, own)


def embed_animals(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    rows = {"0": [0.0, 1.0], "1": [0.6, 0.8], "2": [0.8, 0.6], "3": [0.0, 1.0], "9": [1.0, 0.0]}
    return np.array([rows[text[0]] for text in texts], dtype=np.float32)


def test_three_retrievers_by_hand(tmp_path: Path) -> None:
    """Cosines: c 0.8, b 0.6, a and d 0. By words d and a are alike and first (the greater id leads), then b.

    So the relevant b has rank 2, 3, and with a weight of 1: b 0.6 + its share, d and a 1, c 0.8.
    """
    task = animals({})
    words = word_matches(task, "english", tmp_path)
    share = words.scores[0, 2] / words.scores[0, 0]
    assert words.numbers[0, :4].tolist() == [3, 0, 1, NONE]
    assert 0.4 < share < 0.5
    (scores,) = evaluate(task, embed_animals, words, weight=1.0).scores.values()
    assert {name: scores[f"MRR@10{name}"] for name in ("", " bm25", " hybrid")} == {
        "": 1 / 2,
        " bm25": 1 / 3,
        " hybrid": 1,
    }
    (scores,) = evaluate(task, embed_animals, words, weight=0.3, retrievers=["dense", "hybrid"]).scores.values()
    assert scores["MRR@10 hybrid"] == 1 / 2  # c 0.8, b 0.6 + 0.3 * 0.45
    assert not [name for name in scores if "bm25" in name]


def test_the_query_itself_neither_ranks_nor_sets_the_scale(tmp_path: Path) -> None:
    task = animals({"q": "d"})
    words = word_matches(task, "english", tmp_path)
    assert words.numbers[0, :3].tolist() == [0, 1, NONE]
    search = search_of(task, embed_animals, words)
    (pool,) = search.pools()
    assert pool.shares.max() == 1 and 3 not in pool.numbers


def test_queries_come_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = animals({})
    task.queries.update({f"q{n}": f"9 {'cat' if n % 2 else 'cow'}" for n in range(7)})
    task.relevance.update({f"q{n}": {"c": 1} for n in range(7)})
    words = word_matches(task, "english", tmp_path)
    whole = evaluate(task, embed_animals, words).scores
    monkeypatch.setattr(evaluate_module, "QUERIES", 3)
    assert evaluate(task, embed_animals, words).scores == whole
