from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.grades import grade_of
from multigrain.records import Document, Pair
from multigrain.synthesis.mine import mine_candidates

BOUNDS = (0.35, 0.6, 0.8, 0.95)


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """A text such as "0.8 a" is a unit vector whose cosine with the query "1 q" is 0.8."""
    cosines = np.array([float(text.split()[0]) for text in texts])
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)


def mine(cosines: list[float], pairs: list[Pair], per_grade: int = 1) -> list[tuple[int, str]]:
    documents = [Document(str(i), f"{cosine} d{i}") for i, cosine in enumerate(cosines)]
    return [(c.grade, c.text) for c in mine_candidates(pairs, documents, embed, "m", BOUNDS, per_grade)]


def test_neighbours_are_cut_into_grades_by_hand() -> None:
    # The positive's cosine is 0.5, so 0.1 0.2 0.35 0.45 are 0.2 0.4 0.7 0.9 of it; 0.49 is a false negative.
    pair = Pair("p", "1 q", "0.5 positive")
    assert mine([0.49, 0.45, 0.35, 0.2, 0.1], [pair]) == [(1, "0.1 d4"), (2, "0.2 d3"), (3, "0.35 d2"), (4, "0.45 d1")]


def test_the_positives_of_a_query_are_never_its_negatives() -> None:
    pairs = [Pair("p", "1 q", "0.9 positive"), Pair("r", "1 q", "0.8 d0")]
    assert [text for _, text in mine([0.8, 0.1], pairs)] == ["0.1 d1", "0.1 d1"]


def test_an_irrelevant_positive_has_no_negatives() -> None:
    assert mine([0.1, 0.5], [Pair("p", "1 q", "-0.2 positive")]) == []


@given(st.lists(st.floats(-0.99, 0.99), min_size=1, max_size=30), st.integers(1, 3), st.randoms())
def test_choice_does_not_depend_on_the_order_of_the_pairs(cosines: list[float], per_grade: int, order: object) -> None:
    pairs = [Pair(str(i), "1 q", f"{0.3 + i / 10} p{i}") for i in range(4)]
    found = {pair.id: mine(cosines, [pair], per_grade) for pair in pairs}
    together = mine(cosines, pairs, per_grade)
    assert together == [item for pair in pairs for item in found[pair.id]]
    for pair in pairs:
        own = float(pair.positive.split()[0])
        for grade, text in found[pair.id]:
            relative = float(np.float32(text.split()[0]) / np.float32(own))
            assert grade == grade_of(relative, BOUNDS) or abs(relative - np.array(BOUNDS)).min() < 1e-5
