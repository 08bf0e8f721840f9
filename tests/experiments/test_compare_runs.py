"""Runs beside each other."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.errors import RunError
from multigrain.experiments import compare_runs as command
from multigrain.experiments.comparison import Arm, compare
from multigrain.experiments.results import RunScores, read_run
from multigrain.experiments.tables import for_terminal, to_markdown


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


def test_the_command_line_gives_columns_to_a_terminal_alone(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["compare", *map(str, runs)]
    assert main(command) == 0
    assert "| arm |" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main([*command, "--out", str(out := runs[0].parent / "out")]) == 0
    shown, told = capsys.readouterr()
    assert "| arm |" not in shown and "base, not trained  0.500      -0.100  [-0.100, -0.100]" in shown
    assert f"{out}: table.md, table.json" in told and "| arm |" in (out / "table.md").read_text()


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
    with pytest.raises(RunError, match=r"t: searched in different corpora \(200 documents in a, 100 documents in b\)"):
        compare([Arm("a", sizes[:1]), Arm("b", sizes[1:])], seed=1)
    with pytest.raises(RunError, match=r"no task that all were measured on.*Tasks of a: t; b: u"):
        compare([Arm("a", [one]), Arm("b", [measured([0.1], "u")])], seed=1)
    with pytest.raises(RunError, match=r"nowhere: nothing is measured here. Run: multigrain evaluate"):
        read_run(Path("nowhere"))


GRADED: dict[str, Any] = {"order": 1.0, "accuracy 1": 1.0, "margin 1": 0.2}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = []
    for name, gain in (("one", 0.1), ("other", 0.2)):
        folder = tmp_path / name
        (folder / "evaluation").mkdir(parents=True)
        (folder / "training").mkdir()
        rows = [
            {"task": "t", "query": str(n), "text": f"query {n}", "base": {"m": 0.5}, "trained": {"m": 0.5 + gain}}
            for n in range(9)
        ]
        rows += [
            {"task": "graded:g", "query": str(n), "text": "q", "base": GRADED, "trained": GRADED} for n in range(3)
        ]
        (folder / "evaluation" / "per_query.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        base, trained = ({"t": {"m": value}, "graded:g": GRADED} for value in (0.5, 0.5 + gain))
        (folder / "evaluation" / "scores.json").write_text(json.dumps({"base": base, "trained": trained}))
        log = [{"step": n, "phase": f"grade {n // 3}", "loss": 1 / n, "margins": {}} for n in range(1, 7)]
        (folder / "training" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        folders.append(folder)
    return folders


def test_compare_writes_tables_and_pictures(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = runs[0].parent / "out"
    command = ["compare", *map(str, runs), "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "| base, not trained | 0.500 | -0.100 |" in shown and "| other | 0.700 | +0.100 |" in shown
    names = {path.name for path in out.iterdir()}
    pictures = {"metric-t", "metric-graded-g", "training", "grades-graded-g-one", "grades-graded-g-other"}
    assert names == {"table.md", "table.json"} | {f"{name}.{form}" for name in pictures for form in ("svg", "png")}
    drawn = {name: (out / name).read_bytes() for name in names}
    assert json.loads(drawn["table.json"])["tasks"]["t"]["m"]["other"]["value"] == pytest.approx(0.7)
    assert main(command) == 2 and "exists; give another name, or --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert {name: (out / name).read_bytes() for name in names} == drawn  # the same figures give the same files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scores.json", "{"),
        ("scores.json", '{"base": {}}'),
        ("scores.json", "[]"),
        ("scores.json", '{"base": {"t": {"m": "0.5"}}, "trained": {"t": {"m": 0.5}}}'),
        ("scores.json", '{"base": {"t": {}}, "trained": {"t": {}}}'),
        ("per_query.jsonl", '{"task": "t"'),
        ("per_query.jsonl", '{"task": "t", "query": "0", "base": 1, "trained": 1}'),
        ("per_query.jsonl", '{"task": "t", "query": "0", "base": {}, "trained": {}}'),
        ("per_query.jsonl", '{"task": "t", "query": "0", "base": {"m": NaN}, "trained": {"m": 0.5}}'),
        ("per_query.jsonl", '{"task": "t", "query": "0", "base": {"m": 0.4}, "trained": {"m": 0.6}}'),  # not all items
        ("per_query.jsonl", ""),
    ],
)
def test_damaged_results_are_named(runs: list[Path], name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (runs[0] / "evaluation" / name).write_text(text)
    assert main(["compare", *map(str, runs)]) == 2
    assert f"{runs[0]}/evaluation: damaged" in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"step": 1, "loss"', '{"loss": 1.0}\n'])
def test_a_damaged_log_costs_a_picture_alone(runs: list[Path], text: str) -> None:
    (runs[0] / "training" / "log.jsonl").write_text(text)
    assert main(["compare", *map(str, runs), "--out", str(runs[0].parent / "out")]) == 0


def test_nothing_is_left_of_a_table_that_was_not_finished(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    out = runs[0].parent / "out"
    before = sorted(runs[0].parent.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(command, "write_plots", interrupted)
        main(["compare", *map(str, runs), "--out", str(out)])
    assert sorted(runs[0].parent.iterdir()) == before
    assert main(["compare", *map(str, runs), "--out", str(out)]) == 0


def test_figures_of_an_earlier_model_are_not_shown(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Training takes the evaluation out of the manifest."""
    (runs[0] / "manifest.json").write_text("{}")
    assert main(["compare", *map(str, runs)]) == 2
    assert f"{runs[0]}: the model is not measured yet. Run: multigrain evaluate" in capsys.readouterr().err


def test_tasks_that_some_lack_are_said(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    scores = json.loads((runs[1] / "evaluation" / "scores.json").read_text())
    for side in scores.values():
        side.pop("t")
    (runs[1] / "evaluation" / "scores.json").write_text(json.dumps(scores))
    assert main(["compare", *map(str, runs)]) == 0
    out, err = capsys.readouterr()
    assert "left out, because some runs were not measured on it: t" in err and "### t" not in out


def test_bad_comparisons(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs[0]), str(runs[0])]) == 2
    assert "a run is named twice" in capsys.readouterr().err
    assert main(["compare", str(runs[0]), "nowhere"]) == 2
    assert "nothing is measured here" in capsys.readouterr().err
    taken = runs[0].rename(runs[0].with_name("base, not trained"))
    assert main(["compare", str(taken), str(runs[1])]) == 2
    assert "is what the model before training is called; rename the run folder" in capsys.readouterr().err
    taken.rename(runs[0])
    assert main(["compare", str(runs[0])]) == 0  # a run and its base
    assert "| base, not trained |" in capsys.readouterr().out
