import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from multigrain.config import PhaseSection
from multigrain.model.roles import Role
from multigrain.records import GradedTuple, Negative
from multigrain.training import neighbours as module
from multigrain.training.curriculum import plan
from multigrain.training.neighbours import SCALE, Neighbours, Vectors, vectors_of


def on_a_circle(*degrees: float) -> Vectors:
    angles = np.radians(degrees)
    points: Vectors = np.rint(SCALE * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.int16)
    return points


def groups(found: Sequence[int], size: int) -> list[set[int]]:
    return [set(found[start : start + size]) for start in range(0, len(found), size)]


def test_groups_by_hand() -> None:
    vectors = on_a_circle(0, 90, 10, 100, 180, 20, 170, 110, 190)
    found = Neighbours(vectors, 3).grouped(list(range(9)), random.Random(1))
    assert {frozenset(group) for group in groups(found, 3)} == {
        frozenset({0, 2, 5}),
        frozenset({1, 3, 7}),
        frozenset({4, 6, 8}),
    }


def test_a_tuple_takes_the_nearest_that_are_left() -> None:
    """80 takes 60 and 40 before 20 has its turn, which is left with 0."""
    vectors = on_a_circle(80, 20, 60, 40, 0)
    found = Neighbours(vectors, 3).grouped(list(range(5)), random.Random(1))
    assert {0, 2, 3} in (set(found[:3]), set(found[2:]))


@settings(max_examples=60)
@given(st.integers(0, 70), st.integers(1, 9), st.integers(0, 2**16), st.sampled_from([8, 8192]))
def test_each_tuple_is_in_one_group(count: int, size: int, seed: int, at_once: int) -> None:
    vectors = np.random.default_rng(seed).integers(-800, 800, (count, 4)).astype(np.int16)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        found = Neighbours(vectors, size).grouped(order, random.Random(seed))
        assert sorted(found) == list(range(count))
        assert Neighbours(vectors, size).grouped(order, random.Random(seed)) == found


def test_parts_keep_neighbours_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 64)
    generator = np.random.default_rng(3)
    subjects = generator.normal(size=(100, 16))
    vectors = np.repeat(subjects, 8, axis=0) + 0.05 * generator.normal(size=(800, 16))
    vectors *= SCALE / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = generator.permutation(800).tolist()
    found = Neighbours(np.rint(vectors).astype(np.int16), 8).grouped(order, random.Random(5))
    alike = [len({place // 8 for place in group}) for group in groups(found, 8)]
    assert np.mean(alike) < 3  # by chance it would be 7.7


def test_the_number_of_threads_changes_nothing() -> None:
    vectors = np.random.default_rng(2).normal(size=(3000, 384))
    vectors *= SCALE / np.linalg.norm(vectors, axis=1, keepdims=True)
    neighbours = Neighbours(np.rint(vectors).astype(np.int16), 8)
    found = []
    for threads in (1, 4):
        with threadpool_limits(threads):
            found.append(neighbours.grouped(list(range(3000)), random.Random(1)))
    assert found[0] == found[1]


def test_vectors_are_means_of_query_and_positive() -> None:
    def embed(texts: Sequence[str], role: Role) -> np.ndarray:
        return np.array([[1.0, 0.0] if role == "query" else [0.0, 1.0] for _ in texts], dtype=np.float32)

    graded = GradedTuple(id="a", query="q", positive="p", negatives=(Negative("n", 1, 0.1, "mined"),))
    half = round(SCALE * 0.5**0.5)
    assert vectors_of([graded], embed).tolist() == [[half, half]]
    assert len(vectors_of([], embed)) == 0


def test_batches_are_filled_from_groups() -> None:
    tuples = [
        GradedTuple(
            id=str(n), query=f"query {n}", positive=f"positive {n}", negatives=(Negative(f"n {n}", 1, 0.1, "mined"),)
        )
        for n in range(24)
    ]
    vectors = on_a_circle(*(90 * (n % 4) for n in range(24)))
    phases = [PhaseSection(name="all", grades=[1], steps=8)]
    curriculum = plan(tuples, phases, 6, seed=3, neighbours=Neighbours(vectors, 6))
    assert all(len({place % 4 for place in batch}) == 1 for batch in curriculum.places.tolist())
    assert sorted(curriculum.places[:4].ravel().tolist()) == list(range(24))
