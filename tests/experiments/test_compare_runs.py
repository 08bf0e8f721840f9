"""Runs beside each other."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.experiments import compare_runs as command

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


@pytest.fixture
def without_matplotlib() -> Iterator[None]:
    """Neither an earlier import of matplotlib counts here, nor later what a failed one has left behind."""

    def modules() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]

    kept = {name: sys.modules.pop(name) for name in modules()}
    yield
    for name in modules():
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.mark.usefixtures("without_matplotlib")
@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("matplotlib", "matplotlib is not installed"),
        ("kiwisolver", "matplotlib cannot be imported (import of kiwisolver halted"),
    ],
)
def test_a_plotting_library_that_cannot_be_used_costs_the_pictures_alone(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: str, found: str
) -> None:
    out = runs[0].parent / "out"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, broken, None)
        assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"table.md", "table.json"}
    told = capsys.readouterr().err
    assert f"plots are left out: {found}" in told
    assert told.endswith('Run: pip install "multigrain[plots]", then the same command with --force draws them\n')


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
    assert "is the name of the model before training; rename the run folder" in capsys.readouterr().err
    taken.rename(runs[0])
    assert main(["compare", str(runs[0])]) == 0  # a run and its base
    assert "| base, not trained |" in capsys.readouterr().out
