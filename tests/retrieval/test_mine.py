import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.config import MiningSection
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.model.roles import Role
from multigrain.records import FALSE_NEGATIVE, Candidate, Document, Pair, grade_of, identity
from multigrain.retrieval import mine as module
from multigrain.retrieval.mine import mine_candidates

BOUNDS = (0.35, 0.6, 0.8, 0.95)
EMBEDDING = MiningSection(methods=["embedding"], per_grade=1)
BM25 = MiningSection(methods=["bm25"], per_grade=1)


def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    """A text such as "0.8 a" is a unit vector whose cosine with the query "1 q" is 0.8."""
    cosines = np.array([float(text.split()[0]) for text in texts])
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)


def candidates(documents: list[Document], pairs: list[Pair], mining: MiningSection = EMBEDDING) -> list[Candidate]:
    return list(mine_candidates(FalseNegatives(pairs), documents, embed, "m", BOUNDS, mining))


def mine(cosines: Sequence[float], pairs: list[Pair], **settings: Any) -> list[tuple[int, str]]:
    documents = [Document(str(i), f"{cosine} d{i}") for i, cosine in enumerate(cosines)]
    mining = MiningSection.model_validate({"methods": ["embedding"], "per_grade": 1, **settings})
    return [(candidate.grade, candidate.text) for candidate in candidates(documents, pairs, mining)]


@pytest.fixture(params=[(1, 1), (2, 3), (7, 5), (256, 1024)])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS", request.param[0])
    monkeypatch.setattr(module, "BLOCK", request.param[1])


def test_neighbours_are_cut_into_grades_by_hand() -> None:
    # The positive's cosine is 0.5, so 0.1 0.2 0.35 0.45 are 0.2 0.4 0.7 0.9 of it; 0.49 is a false negative.
    pair, cosines = Pair("p", "1 q", "0.5 positive"), [0.49, 0.45, 0.35, 0.2, 0.1]
    assert mine(cosines, [pair]) == [(1, "0.1 d4"), (2, "0.2 d3"), (3, "0.35 d2"), (4, "0.45 d1")]
    assert mine(cosines, [pair], grades=[4, 2]) == [(2, "0.2 d3"), (4, "0.45 d1")]


def test_the_positives_of_a_query_and_the_query_itself_are_never_its_negatives() -> None:
    pairs = [Pair("p", "0.9 q", "0.9 positive"), Pair("r", "0.9  Q", "0.8 D0")]
    # d0 is the other pair's positive, and d1 would be the query, but for its case.
    assert mine([0.8, 0.1], pairs) == [(2, "0.1 d1")] * 2
    documents, pair = [Document("0", "0.2 q"), Document("1", "0.3 Q")], Pair("p", "0.3 q", "1 positive")
    found = mine_candidates(
        FalseNegatives([pair]), documents, embed, "m", (0.35, 0.6, 0.8, 99), MiningSection(per_grade=9)
    )
    assert [c.text for c in found] == ["0.2 q"]


def test_held_out_documents_are_never_looked_at() -> None:
    documents = [Document("0", "not even a number", "held_out"), Document("1", "0.1 d1", "train")]
    for mining in (EMBEDDING, MiningSection(per_grade=1)):
        assert [c.text for c in candidates(documents, [Pair("p", "1 not even", "0.9 p")], mining)] == ["0.1 d1"]


def test_an_irrelevant_positive_has_no_negatives() -> None:
    assert mine([0.1, 0.5], [Pair("p", "1 q", "-0.2 positive")]) == []
    assert mine([0.1, 0.5], [Pair("p", "1 q", "0 positive")], methods=["bm25", "embedding"]) == []


cosine_lists = st.lists(st.integers(-99, 99).map(lambda i: i / 100), min_size=1, max_size=30, unique=True)
PAIRS = [Pair(str(i), "1 q", f"{0.305 + i / 10} p{i}") for i in range(4)]


@given(cosine_lists, st.integers(1, 3), st.permutations(PAIRS), st.integers(1, 5), st.integers(1, 40))
def test_neither_order_nor_blocks_change_the_choice(
    cosines: list[float], per_grade: int, order: list[Pair], rows: int, columns: int
) -> None:
    expected = {pair.id: mine(cosines, [pair], per_grade=per_grade) for pair in PAIRS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS", rows)
        patch.setattr(module, "BLOCK", columns)
        assert mine(cosines, order, per_grade=per_grade) == [item for pair in order for item in expected[pair.id]]


@given(cosine_lists, st.integers(1, 3))
def test_a_grade_has_as_many_as_there_are(cosines: list[float], per_grade: int) -> None:
    """Against the definition: the grade of each document by `grade_of`, and no more than `per_grade` of each."""
    for pair in PAIRS:
        own = float(pair.positive.split()[0])
        grades = {f"{cosine} d{i}": grade_of(cosine / own, BOUNDS) for i, cosine in enumerate(cosines)}
        found = mine(cosines, [pair], per_grade=per_grade)
        assert all(grades[text] == grade for grade, text in found)
        assert len({text for _, text in found}) == len(found)
        there = Counter(grade for grade in grades.values() if grade != FALSE_NEGATIVE)
        assert Counter(grade for grade, _ in found) == {g: min(n, per_grade) for g, n in there.items()}


def test_every_document_of_a_band_is_equally_likely() -> None:
    pairs = [Pair(f"pair {i}", "1 q", "0.9 p") for i in range(2000)]
    chosen = Counter(text for _, text in mine([0.1 + i / 1000 for i in range(20)], pairs))
    # Chi-square with 19 degrees of freedom is above 43.8 once in a thousand.
    assert sum((chosen[f"{0.1 + i / 1000} d{i}"] - 100) ** 2 / 100 for i in range(20)) < 43.8
    again = Counter(text for _, text in mine([0.1 + i / 1000 for i in range(20)], pairs))
    assert again == chosen


WORDS = ["ships", "harbour", "cats", "gardens", "thunder", "copper", "mirrors", "letters"]


def test_bm25_takes_the_nearest_by_words_in_each_band() -> None:
    """Of the documents of each band, the one that shares most words with the query, whatever its place in the band."""
    documents = [
        *(Document(f"a{i}", f"{c} {' '.join(WORDS[:i])} filler filler") for i, c in enumerate([0.4, 0.1, 0.2, 0.05])),
        *(Document(f"b{i}", f"{c} {' '.join(WORDS[:i])} other filler") for i, c in enumerate([0.55, 0.7, 0.6, 0.65])),
    ]
    pair = Pair("p", "1 ship harbours cat", "0.9 p")
    found = candidates(documents, [pair], BM25)
    assert [(c.grade, c.text.split()[0], c.model) for c in found] == [
        (1, "0.05", "bm25"),
        (3, "0.65", "bm25"),
    ]


def test_what_both_methods_find_is_proposed_once() -> None:
    documents = [Document("0", "0.1 ship"), Document("1", "0.2 cat")]
    found = candidates(documents, [Pair("p", "1 ship", "0.9 p")], MiningSection(per_grade=2))
    assert [(c.text, c.model) for c in sorted(found, key=lambda c: c.text)] == [("0.1 ship", "m"), ("0.2 cat", "m")]
    methods = MiningSection(per_grade=2, methods=["bm25", "embedding"])
    found = candidates(documents, [Pair("p", "1 ship", "0.9 p")], methods)
    assert [(c.text, c.model) for c in found] == [("0.1 ship", "bm25"), ("0.2 cat", "m")]


def test_bm25_never_proposes_what_may_not_be(blocks: None) -> None:
    documents = [
        Document("0", "0.5 ship cat", "held_out"),
        Document("1", "0.2 Ship  cat"),  # a positive of the other pair
        Document("2", "0.3 ship"),
        Document("3", "0.89 ship cat"),  # too near
    ]
    pairs = [Pair("p", "1 ship cat", "0.9 p"), Pair("r", "1 ship cat", "0.2 ship cat"), Pair("s", "1 cat", "0.9 p")]
    found = [(c.pair_id, c.text) for c in candidates(documents, pairs, BM25)]
    assert found == [("p", "0.3 ship"), ("s", "0.2 Ship  cat")]


def hashed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    """A vector for each text, from its digest."""
    seeds = np.array([int.from_bytes(identity(text)[:4], "big") for text in texts])
    vectors: NDArray[np.float32] = np.cos(seeds[:, None] * np.arange(1, 9) * 1e-3).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_equivalence_with_brute_force(blocks: None) -> None:
    """All of both methods on a small corpus, one pair and one document at a time."""
    from multigrain.retrieval.bm25 import nearest_by_words

    draw = np.random.default_rng(3)
    texts = [" ".join(draw.choice(WORDS, 4)) + f" {i}" for i in range(60)]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    pairs = [Pair(str(i), " ".join(draw.choice(WORDS, 2)) + f" q{i}", texts[i]) for i in range(12)]
    found = list(mine_candidates(FalseNegatives(pairs), documents, hashed, "m", BOUNDS, MiningSection(per_grade=16)))
    ranked = nearest_by_words([p.query for p in pairs], enumerate(texts), 100, "english")
    for pair, nearest in zip(pairs, ranked, strict=True):
        query, positive = hashed([pair.query], "query")[0], hashed([pair.positive], "document")[0]
        own = float(query @ positive)
        grades = {text: grade_of(float(query @ hashed([text], "document")[0]) / own, BOUNDS) for text in texts}
        grades[pair.positive] = FALSE_NEGATIVE
        mined = [(c.grade, c.text) for c in found if c.pair_id == pair.id and c.model == "m"]
        by_words = [(c.grade, c.text) for c in found if c.pair_id == pair.id and c.model == "bm25"]
        for grade in (1, 2, 3, 4):
            band = {text for text in texts if grades[text] == grade} if own > 0 else set()
            chosen = {text for g, text in mined if g == grade}
            assert chosen <= band and len(chosen) == min(16, len(band))
            best = [texts[n] for n in nearest if n >= 0 and texts[n] in band][:16]
            assert [text for g, text in by_words if g == grade] == [text for text in best if text not in chosen]


PROGRAM = """
import sys
from pathlib import Path
from benchmarks.mining_memory.stages import data, mining, timed, write_run
for documents in (10_000, 45_000):
    config = write_run(Path(sys.argv[1], str(documents)), documents, queries=100, words=5, padding=" " + 2000 * "x")
    assert timed(data, config, 256)["documents"] == documents
    result = timed(mining, config, 256)
    assert result["candidates"] > 0
    print(result["peak_mb"])
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """35,000 more passages have 70 MB of text and 35 MB of vectors; about 10 MB are for their keys and their places."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    small, large = map(float, result.stdout.split())
    assert large - small < 30, (small, large)
