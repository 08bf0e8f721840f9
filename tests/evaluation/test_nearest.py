"""Searches in blocks find what one full sort finds."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multigrain.data.blocks import blocks
from multigrain.evaluation import nearest as module
from multigrain.evaluation.nearest import candidates_on, nearest
from multigrain.model.roles import Role
from multigrain.records import Document

DRAW = np.random.default_rng(5)


def searched(
    similarities: NDArray[np.float32], ids: Sequence[str], k: int, block: int
) -> list[list[tuple[float, str]]]:
    """Search documents that have these similarities to the queries, (queries, documents)."""
    documents = [Document(id, str(number)) for number, id in enumerate(ids)]
    identity = np.eye(len(ids), dtype=np.float32)

    def embed(texts: Sequence[str], _role: Role) -> NDArray[np.float32]:
        return identity[[int(text) for text in texts]]

    return nearest(similarities, documents, embed, k, block).ranked()


@pytest.mark.parametrize("values", [1, 3, 1000])
@pytest.mark.parametrize("block", [7, 64, 500])
def test_many_documents_in_many_blocks(values: int, block: int) -> None:
    """All alike, of a few cosines, or of many; the ids are in no order, and one begins another."""
    similarities = DRAW.integers(0, values, size=(30, 400)).astype(np.float32)
    ids = [str(number) for number in DRAW.permutation(400)]
    for k in (1, 10, 399, 500):
        expected = [sorted(zip(row, ids, strict=True), reverse=True)[:k] for row in similarities.tolist()]
        assert searched(similarities, ids, k, block) == expected


def test_rising_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is better than all before; queries come in several portions."""
    monkeypatch.setattr(module, "QUERIES", 4)
    similarities = np.sort(DRAW.normal(size=(11, 90)).astype(np.float32), axis=1)
    ids = [f"d{number}" for number in range(90)]
    found = searched(similarities, ids, 5, 10)
    assert [[id for _, id in row] for row in found] == [[f"d{number}" for number in range(89, 84, -1)]] * 11


@given(st.integers(1, 12), st.integers(1, 3))
def test_a_device_finds_the_same(k: int, values: int) -> None:
    queries = DRAW.integers(-values, values + 1, size=(5, 3)).astype(np.float32)
    vectors = DRAW.integers(-values, values + 1, size=(10, 3)).astype(np.float32)
    least = DRAW.choice(np.array([-np.inf, 0, 1], dtype=np.float32), size=5)
    ours = module._candidates(queries, vectors, k, least)
    theirs = candidates_on(torch.device("cpu"), queries, vectors, k, least)
    similarity = queries @ vectors.T
    for found in (ours, theirs):
        assert (np.diff(found.rows * 10 + found.columns) > 0).all()
        assert (found.cosines == similarity[found.rows, found.columns]).all()
        for row in range(5):
            mine = set(found.columns[found.rows == row].tolist())
            bound = max(least[row], np.sort(similarity[row])[-k:][0])
            assert {column for column in range(10) if similarity[row, column] >= bound} <= mine
            assert all(similarity[row, column] >= least[row] for column in mine)


def test_blocks_end_by_number_or_by_length() -> None:
    documents = [Document(str(n), "x" * (50 if n == 3 else 1)) for n in range(8)]
    found = [[document.id for document in block] for block in blocks(documents, 3, characters=20)]
    assert found == [["0", "1", "2"], ["3"], ["4", "5", "6"], ["7"]]
