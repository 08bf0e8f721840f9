"""The public names take what a user of Python has at hand: text, paths, or the objects themselves."""

import importlib.util
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import multigrain
from multigrain import Config, ConfigError, ModelSection, RunError, load_config
from multigrain.cli.main import main
from multigrain.terminal import set_mode

NO_PATHS = {
    "AnchorPooling", "Config", "ConfigError", "Curriculum", "DataError", "Document", "GradedTuple", "LLMError",
    "ModelSection", "MultigrainError", "Negative", "Pair", "RunError",
}  # fmt: skip
"""Types; those of settings are tried apart."""
VERBS = ("run", "check", "synthesize", "grade", "dropped", "adapt", "train", "evaluate", "export_model")
Kind = Callable[[Path], str | Path]


def calls(kind: Kind, toml: Path, grid: Path, out: Path) -> dict[str, Callable[[], Any]]:
    """Each public function, given its places as text or as paths."""
    folder = load_config(toml).folder
    run, model, trained = kind(folder), kind(folder / "model"), kind(folder / "training" / "model")
    return {
        **{verb: partial(getattr(multigrain, verb), kind(toml)) for verb in VERBS},
        "ablate": lambda: multigrain.ablate(kind(grid)),
        "build_model": lambda: multigrain.build_model(kind(folder / "model")),
        "check_grid": lambda: multigrain.check_grid(kind(grid)),
        "compare_runs": lambda: multigrain.compare_runs([run]),
        "explain": lambda: multigrain.explain(model, "the cat"),
        "export_data": lambda: multigrain.export_data(run, "tevatron", kind(out / "train.jsonl")),
        "export_onnx": lambda: multigrain.export_onnx(model, kind(out / "onnx")),
        "load_config": lambda: load_config(kind(toml)),
        "load_model": lambda: multigrain.load_model(model),
        "merge_model": lambda: multigrain.merge_model(trained, kind(out / "merged")),
        "tune": lambda: multigrain.tune(kind(toml)),
        "search": lambda: multigrain.search(run, "the cat"),
        "verify_model": lambda: multigrain.verify_model(model),
    }


SLOW = {"ablate", "adapt", "export_onnx", "tune"}
"""Tried without being done: what they say of a place that does not exist shows that they understood it."""


def test_public_functions_take_text_paths_and_run_folders(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_mode("none")
    (grid := finished_run.with_name("grid.toml")).write_text(
        'name = "grid"\nrun = "run.toml"\n[arms.one]\n[arms.two]\n'
    )
    summary = multigrain.run(str(finished_run))
    folder = load_config(finished_run).folder
    for kind in (str, Path):
        (out := tmp_path / f"out-{kind.__name__}").mkdir()
        table = calls(kind, finished_run, grid, out)
        assert table.keys() | NO_PATHS == {*multigrain.__all__}
        for name in table.keys() - SLOW - {"merge_model"}:
            assert table[name]() is not None, name
        with pytest.raises(RunError, match="no adapter to merge"):
            table["merge_model"]()
        with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read"):
            multigrain.ablate(kind(tmp_path / "nowhere.toml"))
        with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read"):
            multigrain.tune(kind(tmp_path / "nowhere.toml"))
        with pytest.raises(ConfigError, match=r"the run has no section .adapt."):
            table["adapt"]()
        with pytest.raises(ConfigError, match="exists; give another name"):
            multigrain.compare_runs(kind(folder), kind(out))
        with pytest.raises(RunError, match="nowhere: no model here"):
            multigrain.export_onnx(kind(tmp_path / "nowhere"), kind(out / "onnx"))
    the_folder_is_its_run_and_its_model(folder, summary, tmp_path)
    verbs_take_the_run_folder_and_the_folder_of_its_model(folder, tmp_path, capsys, monkeypatch)
    a_folder_that_was_moved_is_the_same_run(folder, summary, tmp_path, monkeypatch)


def the_folder_is_its_run_and_its_model(folder: Path, summary: dict[str, Any], tmp_path: Path) -> None:
    assert load_config(folder) == load_config(folder / "run.toml")
    assert multigrain.run(folder) == summary
    assert multigrain.load_model(folder).encode("the cat").shape == (32,)
    assert multigrain.compare_runs(folder) == multigrain.compare_runs([folder / "model"])
    multigrain.export_data(folder / "model", "tevatron", tmp_path / "train.jsonl")


def verbs_take_the_run_folder_and_the_folder_of_its_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: str, code: int = 0) -> str:
        assert main([*arguments, "--quiet"]) == code
        return "".join(capsys.readouterr())

    described = told("check", str(folder / "run.toml"))
    monkeypatch.chdir(folder)
    assert told("check", ".") == described == told("check", str(folder))
    assert "verdict" in told("run", ".")
    assert "5 of 5 checks passed" in told("check", "model")
    refused = told("train", "model", code=2)
    assert f"is the folder of a model; wanted the file of a run or its run folder; its run is {folder}" in refused
    for verb in ("search", "explain"):
        assert told(verb, ".", "the cat") == told(verb, "model", "the cat")
    assert "no adapter to merge" in told("merge", ".", "--out", str(tmp_path / "merged"), code=2)
    monkeypatch.chdir("model")
    assert told("export-data", ".", "--to", "tevatron", "--out", str(tmp_path / "again.jsonl"))


def a_folder_that_was_moved_is_the_same_run(
    folder: Path, summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder, moved := tmp_path / "elsewhere" / "tiny")
    monkeypatch.chdir(moved)
    assert load_config(".").folder == moved
    assert multigrain.run(".") == summary
    assert load_config(moved, ["name=other"]).folder == moved.with_name("other")
    assert not folder.exists()


def test_folders_that_hold_no_run(tiny_encoder: Path, run_toml: Path, tmp_path: Path) -> None:
    assert load_config(tmp_path) == load_config(run_toml)  # a project of one's own, whose file is called so
    with pytest.raises(ConfigError, match="is a folder without run.toml; wanted the file of a run or its run folder"):
        multigrain.run(tiny_encoder)
    (tmp_path / "modules.json").touch()
    run_toml.unlink()
    with pytest.raises(ConfigError, match="is the folder of a model; wanted the file of a run or its run folder"):
        multigrain.train(tmp_path)


@pytest.mark.parametrize("name", [*VERBS, "check_grid", "ablate", "tune", "load_config", "load_model", "verify_model"])
@pytest.mark.parametrize("wrong", [None, 7, {"name": "x"}, b"run.toml"], ids=repr)
def test_what_is_no_place_is_told(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"found {type(wrong).__name__}; wanted .*, as str or Path"):
        getattr(multigrain, name)(wrong)
    with pytest.raises(ConfigError, match="found an empty path; give its path"):
        getattr(multigrain, name)("")


@pytest.mark.parametrize("wrong", [None, 7], ids=repr)
def test_what_is_no_place_is_told_beside_others(wrong: Any, tmp_path: Path) -> None:
    for call in (
        lambda: multigrain.search(wrong, "the cat"),
        lambda: multigrain.explain(wrong, "the cat"),
        lambda: multigrain.build_model(wrong),
        lambda: multigrain.export_data(tmp_path, "hf", wrong),
        lambda: multigrain.export_data(wrong, "hf", tmp_path),
        lambda: multigrain.merge_model(tmp_path, wrong),
        lambda: multigrain.compare_runs([wrong]),
        lambda: multigrain.export_onnx(wrong),
    ):
        with pytest.raises(TypeError, match="wanted .*, as str or Path"):
            call()


def test_home_is_known(tmp_path: Path, run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("~/run.toml") == load_config(run_toml)


def test_settings_may_be_paths(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    assert ModelSection(base=tmp_path).base == str(tmp_path)  # type: ignore[arg-type]
    settings = {"name": "x", "data": {"pairs": file}, "evaluation": {"tasks": [file]}, "output": tmp_path}
    config = Config.model_validate(settings)
    assert (config.data.pairs, config.evaluation.tasks) == (str(file), [str(file)])
    assert config.folder == tmp_path / "x"


def test_no_public_name_is_a_module_too() -> None:
    """Whoever imports `multigrain.x` gets the module under that name, for the whole process."""
    assert not [name for name in multigrain.__all__ if importlib.util.find_spec(f"multigrain.{name}")]


def test_what_is_no_search_and_no_form_is_told(tmp_path: Path) -> None:
    for query, k in ((None, 5), ("  ", 5), ("the cat", 0), ("the cat", -1), ("the cat", 2.5)):
        with pytest.raises(ConfigError, match="search: found"):
            multigrain.search(tmp_path, query, k)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="found the retriever 'splade'; wanted one of dense, bm25, hybrid"):
        multigrain.search(tmp_path, "the cat", retriever="splade")
    (tmp_path / "grading").mkdir()
    (tmp_path / "grading" / "tuples.jsonl").touch()
    with pytest.raises(ConfigError, match="--to: found 'flag'; wanted one of hf, "):
        multigrain.export_data(tmp_path, "flag", tmp_path / "out")
