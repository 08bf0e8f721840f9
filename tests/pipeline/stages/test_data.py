"""Pairs that cannot be split, or cannot be told apart: why, and what helps."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import Config, load_config
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.record_file import Spool
from multigrain.errors import DataError
from multigrain.pipeline.stages.data import read_data

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


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (ONE_QUERY, 'all 20 pairs share one query ("the query")'),
        (ONE_POSITIVE, 'all 20 pairs share one positive ("the positive")'),
    ],
)
def test_pairs_that_are_all_alike(
    refused: Callable[..., str], texts: list[tuple[str, str]], expected: str, share: float
) -> None:
    said = refused(texts, share, evaluation={"tasks": ["held-out" if share else "mteb:X"]})
    assert f"{expected}: none can be held out without also being trained on" in said
    assert "No value of data.held_out helps. Give pairs with different queries and positives." in said
    assert "raise" not in said.lower()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_pairs_that_hang_together(refused: Callable[..., str], share: float) -> None:
    said = refused(CHAIN, share)
    assert "all 20 pairs are connected by shared queries and positives, so none can be held out" in said
    assert "set data.held_out = 0, and evaluation.tasks to a task such as" in said
    assert "raise" not in said.lower()


def test_a_share_that_is_less_than_a_pair(refused: Callable[..., str]) -> None:
    said = refused([(f"query {n}", f"positive {n}") for n in range(20)], 0.04)
    assert "data.held_out = 0.04 of 20 pairs is less than the smallest group to hold out together" in said
    assert "Raise it to 0.05, or give more pairs." in said
    groups = [(f"query {n // 6}", f"positive {n}") for n in range(18)]
    assert "Raise it to 0.4, or give more pairs." in refused(groups, 0.1)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_of_two_queries_none_can_be_held_out(refused: Callable[..., str], share: float) -> None:
    said = refused([(f"query {n % 2}", f"positive {n}") for n in range(20)], share)
    assert "Raise it" not in said and "Give pairs with different queries and positives" in said


def test_a_share_that_leaves_nothing(refused: Callable[..., str]) -> None:
    said = refused([(f"query {n}", f"positive {n}") for n in range(20)], 0.99)
    left = "found 1 pair to train on; a batch needs at least 2."
    assert f"{left} data.held_out = 0.99 holds out 19 pairs: lower it, or give more pairs." in said
    assert f"{left} Give more pairs." in refused([("query", "positive")], 0.1)


def test_pairs_of_one_group(write_jsonl: Write) -> None:
    """No two of them can stand in one batch, whatever is held out."""
    rows = [{"query": f"query {n}", "positive": f"positive {n}", "group": "a law"} for n in range(20)]
    rows[0]["group"] = rows[1]["group"] = "another"
    for given, data in (
        (rows[2:], {"held_out": 0.0}),
        (rows[2:], {"held_out": 0.2}),
        ([{**row, "source": str(n > 1)} for n, row in enumerate(rows)], {"held_out": ["False"]}),
    ):
        path = str(write_jsonl("pairs.jsonl", given))
        tasks = {"tasks": ["held-out" if data["held_out"] else "mteb:X"]}
        with pytest.raises(
            DataError, match=r'all 1\d pairs are of one group \("a law"\): .* Add pairs of other groups'
        ):
            read_data(Config.model_validate({"name": "x", "data": {"pairs": path, **data}, "evaluation": tasks}))


def test_passages_of_one_group(write_jsonl: Write) -> None:
    """Told before anything is asked about them."""
    rows = [{"id": str(n), "text": f"{n} is a passage of eight words or more", "group": "a law"} for n in range(20)]
    sections: dict[str, Any] = {"synthesis": {"mode": "corpus"}}
    sections["data"] = {"corpus": str(write_jsonl("corpus.jsonl", rows))}
    with pytest.raises(DataError, match=r'all 1\d passages are of one group \("a law"\)'):
        sample_passages(Config.model_validate({"name": "x", **sections}))
    for row in rows[::2]:
        row["group"] = "another"
    write_jsonl("corpus.jsonl", rows)
    assert sample_passages(Config.model_validate({"name": "x", **sections}))


def test_what_is_left_beside_held_out_sources_may_be_one_query_too(refused: Callable[..., str]) -> None:
    texts = [("one query" if n % 2 else f"query {n}", f"positive {n}") for n in range(20)]
    assert 'all 10 pairs share one query ("one query"), of those left to train on: in a batch' in refused(texts, ["s0"])


@pytest.mark.parametrize("pieces", [0, 7])
def test_a_disk_that_fills_with_temporary_files_leaves_the_old_data(
    run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    assert main(["synthesize", str(run_toml), "--quiet"]) == 0
    folder = load_config(run_toml).folder / "data"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    append, taken = Spool.append, []

    def full(spool: Spool, content: bytes) -> None:
        taken.append(content)
        if len(taken) > pieces:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(spool, content)

    changed = ["--force", "--quiet", "--set", "data.held_out=0.5"]
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "append", full)
        assert main(["synthesize", str(run_toml), *changed]) == 2
    assert "the disk is full. Make room" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert main(["synthesize", str(run_toml), *changed]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} != before
