from dataclasses import replace
from pathlib import Path

import pytest

from multigrain.errors import RunError
from multigrain.experiments.comparison import Arm, compare
from multigrain.experiments.results import RunScores, read_run
from multigrain.experiments.tables import to_markdown


def measured(scores: list[float], task: str = "t") -> RunScores:
    items = {str(number): {"nDCG@10": score, "MRR@10": score / 2} for number, score in enumerate(scores)}
    mean = sum(scores) / len(scores)
    return RunScores({task: items}, {task: {"nDCG@10": mean, "MRR@10": mean / 2}})


def test_a_table_by_hand() -> None:
    before, after = [0.25, 0.5, 0.5, 0.75] * 10, [0.375, 0.625, 0.5, 0.625] * 10
    texts = {"t": {"0": "first query", "39": "last query"}}
    trainings = [replace(measured(scores), texts=texts) for scores in (before, after, after)]
    arms = [Arm("a", trainings[:1]), Arm("b", trainings[1:])]
    comparison = compare(arms, seed=1)
    cell = comparison.tasks["t"]["nDCG@10"]["b"]
    assert cell.value == pytest.approx(0.53125) and cell.each == [cell.value, cell.value] and cell.spread == 0
    assert cell.difference is not None and cell.difference.value == pytest.approx(0.03125)
    assert cell.difference.low < 0.03 < cell.difference.high and cell.p is not None and 0.05 < cell.p < 0.2
    assert comparison.tasks["t"]["MRR@10"]["b"].p is None  # one metric of a task is tested
    assert comparison.tasks["t"]["nDCG@10"]["a"].difference is None
    moved = comparison.moved["t"]["b"]
    assert [m["after"] - m["before"] for m in moved] == [0.125] * 5 + [-0.125] * 5
    text = to_markdown(comparison)
    assert "| a | 0.500 | 0.250 |  |  |  | 1 |" in text and "| b | 0.531 ± 0.000 | 0.266 ± 0.000 | +0.031 |" in text
    assert "- 0.250 -> 0.375  first query" in text and "- 0.750 -> 0.625  last query" in text


def test_a_run_without_other_retrievers_is_compared_by_what_both_have() -> None:
    """Results of earlier versions have no figures of BM25: they stay comparable."""
    old = measured([0.25, 0.5])
    new = measured([0.5, 0.75])
    for item in new.items["t"].values():
        item["nDCG@10 hybrid"] = 0.9
    new.scores["t"]["nDCG@10 hybrid"] = 0.9
    for arms in ([Arm("a", [old]), Arm("b", [new])], [Arm("a", [new]), Arm("b", [old])]):
        assert list(compare(arms, seed=1).tasks["t"]) == ["nDCG@10", "MRR@10"]
    both = compare([Arm("a", [new]), Arm("b", [new])], seed=1)
    assert both.tasks["t"]["nDCG@10 hybrid"]["b"].value == 0.9


def test_p_values_are_corrected_together() -> None:
    before = [0.5, 0.4] * 20
    better = [score + 0.1 * (number % 3) for number, score in enumerate(before)]
    alone = compare([Arm("a", [measured(before)]), Arm("b", [measured(better)])], seed=1)
    arms = [Arm("a", [measured(before)]), *(Arm(name, [measured(better)]) for name in "bcd")]
    together = compare(arms, seed=1)
    p, corrected = (c.tasks["t"]["nDCG@10"]["b"].p for c in (alone, together))
    assert p is not None and corrected == pytest.approx(3 * p)


def test_a_rank_correlation_and_a_score_alone() -> None:
    def training(shift: float) -> RunScores:
        items = {str(n): {"cosine": n * shift % 7, "gold": float(n)} for n in range(20)}
        return RunScores({"sts:x": items}, {"sts:x": {"Spearman": shift / 10}, "mteb:X": {"main score": shift}})

    comparison = compare([Arm("a", [training(1.0)]), Arm("b", [training(0.3)])], seed=1)
    cell = comparison.tasks["sts:x"]["Spearman"]["b"]
    assert cell.difference is not None and cell.difference.value > 0.5
    assert comparison.tasks["mteb:X"]["main score"]["b"].difference is None
    assert comparison.moved["sts:x"]["b"] == []
    assert "| b | 0.300 | -0.700 |  |  | 1 |" in to_markdown(comparison)


def test_items_are_paired_by_id() -> None:
    before = measured([n / 40 for n in range(40)])
    backwards = replace(before, items={"t": dict(reversed(before.items["t"].items()))})
    score = compare([Arm("a", [before]), Arm("b", [backwards])], seed=1).tasks["t"]["nDCG@10"]["b"]
    assert score.difference == (0, 0, 0) and score.p == 1


def test_what_cannot_be_compared() -> None:
    one, other = measured([0.1, 0.2]), measured([0.1, 0.2, 0.3])
    with pytest.raises(RunError, match=r"t: measured on different items \(2 in a, 3 in b, 2 in both\)"):
        compare([Arm("a", [one]), Arm("b", [other])], seed=1)
    texts = [replace(one, texts={"t": {"0": text}}) for text in ("this", "that")]
    with pytest.raises(RunError, match=r"t: measured on different items \(2 in a, 2 in b, 1 in both\)"):
        compare([Arm("a", texts[:1]), Arm("b", texts[1:])], seed=1)
    other_grades = [replace(one, items={"t": {id: {grade: 0.5} for id in "01"}}) for grade in ("margin 3", "margin 4")]
    with pytest.raises(RunError, match=r"t: measured on different items \(2 in a, 2 in b, 0 in both\)"):
        compare([Arm("a", other_grades[:1]), Arm("b", other_grades[1:])], seed=1)
    sizes = [replace(one, documents={"t": size}) for size in (200, 100)]
    with pytest.raises(RunError, match=r"t: searched different corpora \(200 documents in a, 100 documents in b\)"):
        compare([Arm("a", sizes[:1]), Arm("b", sizes[1:])], seed=1)
    with pytest.raises(RunError, match=r"no task in common.*Tasks of a: t; b: u"):
        compare([Arm("a", [one]), Arm("b", [measured([0.1], "u")])], seed=1)
    with pytest.raises(RunError, match=r"nowhere: nothing is measured here. Run: multigrain evaluate"):
        read_run(Path("nowhere"))
