import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.config import MiningSection
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.data.mined_candidates import METHODS, NO_RANK, Mined
from multigrain.model.roles import Role
from multigrain.records import FALSE_NEGATIVE, Document, Pair, grade_of, identity
from multigrain.retrieval import mine as module
from multigrain.retrieval import offers, random_draw
from multigrain.retrieval.bm25 import Words, statistics_of
from multigrain.retrieval.bm25_index import Bm25Index
from multigrain.retrieval.mine import mine_candidates

BOUNDS = (0.35, 0.6, 0.8, 0.95)
EMBEDDING = MiningSection(methods=["embedding"], per_grade=1)
BM25 = MiningSection(methods=["bm25"], per_grade=1)


def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    """A text such as "0.8 a" is a unit vector whose cosine with the query "1 q" is 0.8."""
    cosines = np.array([float(text.split()[0]) for text in texts])
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)


class Found(NamedTuple):
    """A mined candidate, with its pair and its text."""

    pair_id: str
    grade: int
    text: str
    method: str
    rank: int


def read(waves: Iterable[Mined], documents: list[Document], pairs: list[Pair]) -> list[Found]:
    found = []
    for mined in waves:
        columns = (mined.pair, mined.document, mined.grade, mined.method, mined.rank)
        for pair, document, grade, method, rank in zip(*(column.tolist() for column in columns), strict=True):
            found.append(Found(pairs[pair].id, grade, documents[document].text, METHODS[method], rank))
    return found


def candidates(documents: list[Document], pairs: list[Pair], mining: MiningSection = EMBEDDING) -> list[Found]:
    waves = mine_candidates(pairs, FalseNegatives(pairs), documents, embed, BOUNDS, mining=mining)
    return read(waves, documents, pairs)


def mine(cosines: Sequence[float], pairs: list[Pair], **settings: Any) -> list[tuple[int, str]]:
    documents = [Document(str(i), f"{cosine} d{i}") for i, cosine in enumerate(cosines)]
    mining = MiningSection.model_validate({"methods": ["embedding"], "per_grade": 1, **settings})
    return [(found.grade, found.text) for found in candidates(documents, pairs, mining)]


SIZES = ((offers, "PAIRS"), (module, "BLOCK"), (module, "FIRST_BLOCK"), (module, "WAVE"))


@pytest.fixture(params=[(1, 1, 1, 1), (2, 3, 1, 2), (7, 5, 2, 3), (256, 1024, 64, 32_768)])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for (place, name), size in zip(SIZES, request.param, strict=True):
        monkeypatch.setattr(place, name, size)


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
    mining, bounds = MiningSection(per_grade=9), (0.35, 0.6, 0.8, 99)
    found = mine_candidates([pair], FalseNegatives([pair]), documents, embed, bounds, mining=mining)
    assert [c.text for c in read(found, documents, [pair])] == ["0.2 q"]


def test_held_out_documents_are_never_looked_at() -> None:
    documents = [Document("0", "not even a number", "held_out"), Document("1", "0.1 d1", "train")]
    for mining in (EMBEDDING, MiningSection(per_grade=1)):
        assert [c.text for c in candidates(documents, [Pair("p", "1 not even", "0.9 p")], mining)] == ["0.1 d1"]


def test_an_irrelevant_positive_has_no_negatives() -> None:
    assert mine([0.1, 0.5], [Pair("p", "1 q", "-0.2 positive")]) == []
    assert mine([0.1, 0.5], [Pair("p", "1 q", "0 positive")], methods=["bm25", "embedding"]) == []


cosine_lists = st.lists(st.integers(-99, 99).map(lambda i: i / 100), min_size=1, max_size=30, unique=True)
PAIRS = [Pair(str(i), "1 q", f"{0.305 + i / 10} p{i}") for i in range(4)]


sizes = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))


@given(cosine_lists, st.integers(1, 3), st.permutations(PAIRS), sizes)
def test_neither_order_nor_blocks_change_the_choice(
    cosines: list[float], per_grade: int, order: list[Pair], at_once: tuple[int, ...]
) -> None:
    expected = {pair.id: mine(cosines, [pair], per_grade=per_grade) for pair in PAIRS}
    with pytest.MonkeyPatch.context() as patch:
        for (place, name), size in zip(SIZES, at_once, strict=True):
            patch.setattr(place, name, size)
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
    assert [(c.grade, c.text.split()[0], c.method) for c in found] == [
        (1, "0.05", "bm25"),
        (3, "0.65", "bm25"),
    ]


def test_what_both_methods_find_is_proposed_once() -> None:
    documents = [Document("0", "0.1 ship"), Document("1", "0.2 cat")]
    found = candidates(documents, [Pair("p", "1 ship", "0.9 p")], MiningSection(per_grade=2))
    assert [(c.text, c.method) for c in sorted(found, key=lambda c: c.text)] == [
        ("0.1 ship", "embedding"),
        ("0.2 cat", "embedding"),
    ]
    methods = MiningSection(per_grade=2, methods=["bm25", "embedding"])
    found = candidates(documents, [Pair("p", "1 ship", "0.9 p")], methods)
    assert [(c.text, c.method) for c in found] == [("0.1 ship", "bm25"), ("0.2 cat", "embedding")]


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
    draw = np.random.default_rng(3)
    texts = [" ".join(draw.choice(WORDS, 4)) + f" {i}" for i in range(60)]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    pairs = [Pair(str(i), " ".join(draw.choice(WORDS, 2)) + f" q{i}", texts[i]) for i in range(12)]
    mining = MiningSection(per_grade=16)
    waves = mine_candidates(pairs, FalseNegatives(pairs), documents, hashed, BOUNDS, mining=mining)
    found = read(waves, documents, pairs)
    ranked = Bm25Index([p.query for p in pairs], texts, "english").nearest(100).numbers
    for pair, nearest in zip(pairs, ranked, strict=True):
        query, positive = hashed([pair.query], "query")[0], hashed([pair.positive], "document")[0]
        own = float(query @ positive)
        grades = {text: grade_of(float(query @ hashed([text], "document")[0]) / own, BOUNDS) for text in texts}
        grades[pair.positive] = FALSE_NEGATIVE
        mined = [(c.grade, c.text) for c in found if c.pair_id == pair.id and c.method == "embedding"]
        by_words = [(c.grade, c.text) for c in found if c.pair_id == pair.id and c.method == "bm25"]
        for grade in (1, 2, 3, 4):
            band = {text for text in texts if grades[text] == grade} if own > 0 else set()
            chosen = {text for g, text in mined if g == grade}
            assert chosen <= band and len(chosen) == min(16, len(band))
            best = [texts[n] for n in nearest if n >= 0 and texts[n] in band][:16]
            assert [text for g, text in by_words if g == grade] == [text for text in best if text not in chosen]
        for c in found:
            if c.pair_id == pair.id:
                place = NO_RANK if c.method == "embedding" else nearest.tolist().index(texts.index(c.text))
                assert c.rank == place


WORD_PAIRS = [
    Pair("in the corpus", "1 ships harbour", "0.9 a ship in the harbour of ships"),
    Pair("not in it", "1 copper cat", "0.5 the cats and a copper copper mirror"),
    Pair("no word", "1 thunder", "0.8 letters"),
]
WORD_DOCUMENTS = [
    Document("0", "0.1 ship cat copper"),
    Document("1", "0.3 copper thunder gardens ship", "held_out"),
    Document("2", "0.9 A ship in the  harbour of ships"),
    Document("3", "0.4 thunder harbour cats and ships"),
    Document("4", "0.7 gardens of copper copper"),
]


@pytest.mark.parametrize("methods", [["embedding"], ["bm25"], ["embedding", "bm25"]])
def test_recorded_scores_are_those_of_the_judges(blocks: None, methods: list[str]) -> None:
    """Cosines by hand, and BM25 by the formula over what may be mined; of the positives too, wherever they lie."""
    mining = MiningSection.model_validate({"methods": methods, "per_grade": 3})
    waves = list(
        mine_candidates(
            WORD_PAIRS,
            FalseNegatives(WORD_PAIRS),
            WORD_DOCUMENTS,
            embed,
            BOUNDS,
            mining=mining,
            judges=["embedding", "bm25"],
        )
    )
    words = Words("english")
    texts = [document.text for document in WORD_DOCUMENTS if document.split != "held_out"]
    statistics = statistics_of([pair.query for pair in WORD_PAIRS], texts, words)

    def bm25(query: str, text: str) -> float:
        (asked, found), names = words([query, text])
        return statistics.bm25([names[n] for n in asked], Counter(names[n] for n in found))

    count = 0
    for mined in waves:
        for row, (number, document) in enumerate(zip(mined.pair.tolist(), mined.document.tolist(), strict=True)):
            pair, text = WORD_PAIRS[number], WORD_DOCUMENTS[document].text
            count += 1
            assert mined.scores["embedding"][row] == pytest.approx(float(text.split()[0]), abs=1e-6)
            assert mined.positives["embedding"][row] == pytest.approx(float(pair.positive.split()[0]), abs=1e-6)
            assert mined.scores["bm25"][row] == pytest.approx(bm25(pair.query, text), rel=1e-5, abs=1e-6)
            assert mined.positives["bm25"][row] == pytest.approx(bm25(pair.query, pair.positive), rel=1e-5, abs=1e-6)
    assert count == (5 if methods == ["bm25"] else 8)


def test_only_the_judges_that_are_asked_for_are_recorded() -> None:
    (mined,) = mine_candidates(WORD_PAIRS, FalseNegatives(WORD_PAIRS), WORD_DOCUMENTS, embed, BOUNDS)
    assert set(mined.scores) == set(mined.positives) == {"embedding"}


@pytest.mark.parametrize("wave", [1, 2, 3])
def test_a_wave_that_is_there_is_left_out(wave: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAVE", wave)
    known = FalseNegatives(WORD_PAIRS)
    all_waves = list(mine_candidates(WORD_PAIRS, known, WORD_DOCUMENTS, embed, BOUNDS, judges=["embedding", "bm25"]))
    assert len(all_waves) == -(-len(WORD_PAIRS) // wave)
    for first in range(len(all_waves) + 1):
        rest = mine_candidates(
            WORD_PAIRS, known, WORD_DOCUMENTS, embed, BOUNDS, judges=["embedding", "bm25"], first_wave=first
        )
        for mined, again in zip(all_waves[first:], rest, strict=True):
            assert mined.pair.tolist() == again.pair.tolist()
            assert mined.document.tolist() == again.document.tolist()
            assert mined.scores["bm25"].tolist() == again.scores["bm25"].tolist()
            assert mined.positives["bm25"].tolist() == again.positives["bm25"].tolist()


@pytest.mark.parametrize("methods", [["embedding"], ["bm25"], ["embedding", "bm25"]])
@pytest.mark.parametrize("documents", [[], [Document("0", "not even a number", "held_out")]])
def test_a_corpus_without_documents(methods: list[str], documents: list[Document]) -> None:
    mining = MiningSection.model_validate({"methods": methods})
    assert candidates(documents, WORD_PAIRS, mining) == []
    assert candidates(WORD_DOCUMENTS, [], mining) == []


PROGRAM = """
import sys
from pathlib import Path
from benchmarks.mining_memory.stages import data, mining, timed, write_run
for documents in (2500, 8000):
    config = write_run(Path(sys.argv[1], str(documents)), documents, queries=100, words=5, padding=" " + 8000 * "x")
    assert timed(data, config, 1024)["documents"] == documents
    result = timed(mining, config, 1024)
    assert result["candidates"] > 0
    print(result["peak_mb"])
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """5,500 more passages have 44 MB of text and 22 MB of vectors.

    A few MB are for their keys and places, and for stems of words (here each passage has a word of its own); some 35
    are what the allocator does not give back once blocks have their full size.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    small, large = map(float, result.stdout.split())
    assert large - small < 50, (small, large)


def test_of_a_large_corpus_a_part_is_drawn_from_and_all_of_it_can_be_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest are exact; what is drawn at random comes from few documents, the same for all pairs."""
    draw = np.random.default_rng(5)
    vectors = draw.normal(size=(2000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    documents = [Document(str(n), f"text {n}") for n in range(2000)]
    pairs = [Pair(str(n), f"query {n}", f"text {n}") for n in range(20)]

    def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        return vectors[[int(text.split()[1]) for text in texts]] + (0.1 if role == "query" else 0.0)

    mining = MiningSection(methods=["embedding"], per_grade=3, nearest=[4])
    monkeypatch.setattr(random_draw, "DRAWN_FROM", 200)
    (mined,) = mine_candidates(pairs, FalseNegatives(), documents, embed, BOUNDS, mining=mining)
    drawn = random_draw.drawn_from(np.arange(2000), 2000)
    assert 150 < len(drawn) < 250
    assert set(mined.document[mined.grade < 4].tolist()) <= set(drawn.tolist())
    for pair in range(20):
        query = embed([pairs[pair].query], "query")[0]
        shares = vectors @ query / (vectors[pair] @ query)
        near = np.flatnonzero((shares >= BOUNDS[2]) & (shares < BOUNDS[3]))
        nearest = near[np.argsort(-shares[near])][:3].tolist()
        assert mined.document[(mined.pair == pair) & (mined.grade == 4)].tolist() == nearest
