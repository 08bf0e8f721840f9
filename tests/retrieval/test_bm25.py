import os
import subprocess
import sys
from math import log
from pathlib import Path

import numpy as np
import pytest

from multigrain.retrieval import bm25 as module
from multigrain.retrieval.bm25 import Words, nearest_by_words


def test_bm25_by_hand() -> None:
    """Against the formula, in float64; "the" is a stop word, "ships" and "ship" are one."""
    documents = ["the ships harbour", "ship ship garden copper", "the garden", "copper garden thunder"]
    lengths, counts, holding = [2, 4, 1, 3], [1, 2, 0, 0], 2
    idf = log(1 + (4 - holding + 0.5) / (holding + 0.5))
    scores = [idf * tf / (tf + 1.5 * (0.25 + 0.75 * n / 2.5)) for tf, n in zip(counts, lengths, strict=True)]
    expected = [int(i) for i in np.argsort(scores)[::-1] if scores[i] > 0]
    assert nearest_by_words(["the ship"], enumerate(documents), 3, "english").tolist() == [[*expected, -1]]


def test_equal_scores_rank_in_the_order_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    documents = [(number, "ship harbour") for number in (3, 5, 6, 9)]
    assert nearest_by_words(["ship", "the", "cat"], iter(documents), 3, "english").tolist() == [
        [3, 5, 6],
        [-1] * 3,  # nothing but a stop word
        [-1] * 3,  # a word that no document has
    ]


def test_shards_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every shard has the statistics of the whole, the shards change nothing."""
    part = ["ship harbour", "garden copper garden", "ship ship letter", "thunder mirror"]
    documents = list(enumerate(part * 5))
    whole = nearest_by_words(["ship letters", "gardens"], iter(documents), 7, "english")
    monkeypatch.setattr(module, "SHARD", 4)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    parts = nearest_by_words(["ship letters", "gardens"], iter(documents), 7, "english")
    assert [[n % 4 for n in row] for row in parts[:1]] == [[n % 4 for n in row] for row in whole[:1]]
    assert parts[1].tolist() == whole[1].tolist() == [1, 5, 9, 13, 17, -1, -1]


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("english", {"the": [], "houses": ["hous"]}),
        ("en", {"houses": ["hous"]}),
        ("german", {"und": [], "häuser": ["haus"]}),
        ("finnish", {"ja": ["ja"], "talossa": ["talo"]}),  # a stemmer, and no stop words
        ("klingon", {"the": ["the"], "houses": ["houses"]}),
    ],
)
def test_languages(language: str, words: dict[str, list[str]]) -> None:
    take_apart = Words(language)
    for text, expected in words.items():
        (numbers,), names = take_apart([text])
        assert [names[number] for number in numbers] == expected


def test_jax_is_not_started(tmp_path: Path) -> None:
    """Where it is installed, bm25s starts it, and it takes three quarters of a GPU's memory for itself."""
    (tmp_path / "jax.py").write_text("raise SystemExit('started')")
    code = "import sys, multigrain.retrieval.bm25; assert 'jax' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
