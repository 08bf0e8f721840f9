"""What many queries tell apart is chosen; few leave the default."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from multigrain.data.beir import RetrievalTask
from multigrain.evaluation.evaluate import Search, search_of, word_matches
from multigrain.evaluation.hybrid import WEIGHT
from multigrain.evaluation.retriever_choice import FEWEST, choose
from multigrain.model.roles import Role
from multigrain.records import Document

NAMES = ("dense", "bm25", "hybrid")


def searched(folder: Path, count: int, cosine: float) -> Search:
    """Each query finds another's document at 0.5, its own at `cosine`; by words its own alone."""
    queries = {f"q{n}": f"word{n}" for n in range(count)}
    documents = [Document(f"d{n:03}", f"word{n}") for n in range(count)]
    task = RetrievalTask("dev", queries, documents, {f"q{n}": {f"d{n:03}": 1} for n in range(count)})

    def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        vectors = np.eye(count, dtype=np.float32)[[int(text.removeprefix("word")) for text in texts]]
        if role == "query":
            vectors = cosine * vectors + 0.5 * np.roll(vectors, 1, axis=1)
        return vectors

    return search_of(task, embed, word_matches(task, "english", folder))


def test_a_weight_that_the_queries_want_is_found(tmp_path: Path) -> None:
    """The right document is at -0.1 + w, the wrong one at 0.5: the least weight that puts it first is above 0.6."""
    choice = choose([searched(tmp_path, 80, -0.1)], NAMES, 7)
    assert 0.6 <= choice.weight <= 0.81 and choice.weight == choice.fitted
    assert choice.queries == 80 and choice.difference and choice.difference[1] > 0
    assert choice.scores["hybrid"] == choice.scores["bm25"] == 1 > choice.scores["dense"]
    assert choice.best == "hybrid"


def test_a_weight_that_is_no_better_than_the_default_leaves_it(tmp_path: Path) -> None:
    """The right document is at 0.4 + w: any weight above 0.1 is as good."""
    choice = choose([searched(tmp_path, 80, 0.4)], NAMES, 7)
    assert choice.weight == WEIGHT and choice.difference and choice.difference[1] <= 0
    assert choice.scores["hybrid"] == 1
    assert choose([searched(tmp_path, 80, 0.4)], ["dense", "bm25"], 7).best == "bm25"


def test_the_queries_of_all_sources_choose_together(tmp_path: Path) -> None:
    """Alone, neither source has enough queries; each query searches the documents of its own source."""
    few = choose([searched(tmp_path, 40, -0.1)], NAMES, 7)
    choice = choose([searched(tmp_path, 40, -0.1), searched(tmp_path, 41, -0.1)], NAMES, 7)
    assert few.fitted is None and choice.queries == 81
    assert choice.fitted == choose([searched(tmp_path, 80, -0.1)], NAMES, 7).fitted
    assert choice.scores["hybrid"] == 1


def test_few_queries_choose_nothing(tmp_path: Path) -> None:
    choice = choose([searched(tmp_path, FEWEST - 1, -0.1)], NAMES, 7)
    assert (choice.best, choice.weight, choice.fitted, choice.scores) == ("hybrid", WEIGHT, None, {})
    assert choice.queries == FEWEST - 1


@pytest.mark.parametrize("seed", [1, 2])
def test_a_choice_is_repeated_to_the_last_bit(tmp_path: Path, seed: int) -> None:
    assert choose([searched(tmp_path, 60, -0.1)], NAMES, seed) == choose([searched(tmp_path, 60, -0.1)], NAMES, seed)
