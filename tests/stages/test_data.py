"""Pairs that cannot be split, or cannot be told apart: why, and what helps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config
from multigrain.errors import DataError
from multigrain.stages.data import read_data

Write = Callable[[str, list[dict[str, Any]]], Path]


@pytest.fixture
def refused(write_jsonl: Write) -> Callable[..., str]:
    def refuse(texts: list[tuple[str, str]], held_out: float | list[str], **sections: Any) -> str:
        rows = [
            {"query": query, "positive": positive, "source": f"s{n % 2}"} for n, (query, positive) in enumerate(texts)
        ]
        data = {"pairs": str(write_jsonl("pairs.jsonl", rows)), "held_out": held_out}
        with pytest.raises(DataError) as caught:
            read_data(Config.model_validate({"name": "x", "data": data, "training": {"batch_size": 2}, **sections}))
        return str(caught.value)

    return refuse


ONE_QUERY = [(["the query", "The  Query"][n % 2], f"positive {n}") for n in range(20)]
ONE_POSITIVE = [(f"query {n}", "the positive") for n in range(20)]
CHAIN = [(f"query {n // 2}", f"positive {(n + 1) // 2}") for n in range(20)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (ONE_QUERY, 'all 20 pairs have one query ("the query")'),
        (ONE_POSITIVE, 'all 20 pairs have one positive ("the positive")'),
        (CHAIN, "all 20 pairs hang together by queries and positives that they share"),
    ],
)
def test_pairs_of_which_none_can_be_held_out(
    refused: Callable[..., str], texts: list[tuple[str, str]], expected: str, share: float
) -> None:
    said = refused(texts, share)
    assert f"{expected}, so none can be held out without training on what it asks or finds" in said
    assert "set data.held_out = 0, and evaluation.tasks to a set of its own" in said
    assert "raise" not in said.lower()


@pytest.mark.parametrize("texts", [ONE_QUERY, ONE_POSITIVE])
def test_pairs_that_cannot_be_told_apart_are_nothing_to_train_on(
    refused: Callable[..., str], texts: list[tuple[str, str]]
) -> None:
    assert "each would be the answer to all others" in refused(texts, 0.0, evaluation={"tasks": ["mteb:X"]})


def test_a_share_that_is_less_than_a_pair(refused: Callable[..., str]) -> None:
    said = refused([(f"query {n}", f"positive {n}") for n in range(20)], 0.04)
    assert "data.held_out = 0.04 of 20 pairs is less than the fewest that can be held out together" in said
    assert "Raise it to 0.05, or give more pairs." in said
    groups = [(f"query {n // 6}", f"positive {n}") for n in range(18)]
    assert "Raise it to 0.4, or give more pairs." in refused(groups, 0.1)


def test_a_share_that_leaves_nothing(refused: Callable[..., str]) -> None:
    said = refused([(f"query {n}", f"positive {n}") for n in range(20)], 0.99)
    assert "data.held_out = 0.99 holds 19 pairs out, and 1 are left to train on. Lower it" in said


def test_what_is_left_beside_held_out_sources_may_be_one_query_too(refused: Callable[..., str]) -> None:
    texts = [("one query" if n % 2 else f"query {n}", f"positive {n}") for n in range(20)]
    assert 'all 10 pairs have one query ("one query"); in a batch' in refused(texts, ["s0"])
