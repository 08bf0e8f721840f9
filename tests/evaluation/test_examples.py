from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multigrain.data.beir import RetrievalTask
from multigrain.evaluation.evaluate import evaluate
from multigrain.evaluation.examples import choose_examples
from multigrain.model.roles import Role
from multigrain.records import Document


def embed(texts: Sequence[str], role: Role) -> NDArray[np.float32]:
    return np.array([[t.count("a"), t.count("b"), 1] for t in texts], dtype=np.float32)


def test_examples_are_searches_whose_first_result_changed() -> None:
    documents = [Document("x", "aaa"), Document("y", "bbb")]
    task = RetrievalTask("t", {"q": "aa", "r": "bb"}, documents, {"q": {"x": 1}, "r": {"y": 1}})
    good = evaluate(task, embed)
    bad = evaluate(task, lambda texts, role: embed(texts, role)[:, [1, 0, 2] if role == "query" else [0, 1, 2]])
    assert choose_examples(task, good, good, seed=1) == []
    example = next(e for e in choose_examples(task, bad, good, seed=1) if e["query"] == "aa")
    assert (example["rank_before"], example["rank_after"], example["relevant"]) == (2, 1, ["x"])
    assert [document["id"] for document in example["after"]] == ["x", "y"]
