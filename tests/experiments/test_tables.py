import re

import pytest

from multigrain.experiments.comparison import Arm, compare
from multigrain.experiments.results import RunScores
from multigrain.experiments.tables import for_terminal


def measured(scores: list[float], task: str = "t") -> RunScores:
    items = {str(number): {"nDCG@10": score, "MRR@10": score / 2} for number, score in enumerate(scores)}
    mean = sum(scores) / len(scores)
    return RunScores({task: items}, {task: {"nDCG@10": mean, "MRR@10": mean / 2}})


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_terminal_gets_columns_and_the_tables_last(width: int) -> None:
    before, after = measured([0.2] * 12), measured([0.4] * 12)
    for training in (before, after):
        training.texts["t"] = {str(n): f"query {n} " + "word " * 60 for n in range(12)}
        for n in range(1, 8):
            training.scores["t"][f"metric {n}"] = 0.5
            for item in training.items["t"].values():
                item[f"metric {n}"] = 0.5
    comparison = compare([Arm("stock, mined", [before]), Arm("ours, all grades", [after])], seed=1)
    lines = for_terminal(comparison, width).splitlines()
    start = lines.index('t: differences from "stock, mined"')
    assert lines[start + 1].split() == "arm nDCG@10 difference 95 % interval p (Holm) seeds".split()
    assert re.match(r"ours, all grades +0.400 +\+0.200 +\[\+0.200, \+0.200\]", lines[start + 3])
    moved = [line for line in lines if line.startswith("- ")]
    assert moved and max(map(lines.index, moved)) < start and all(line.endswith("word …") for line in moved)
    assert all(len(line) <= max(width, 76) for line in lines)
    assert sum(line.count("metric ") for line in lines) == 7
    assert "|" not in "".join(lines)
