"""Changed settings, data and models are noticed, where they would change a result."""

import json
import shutil
from pathlib import Path

import pytest

from multigrain.config import load_config
from multigrain.errors import ConfigError
from multigrain.pipeline import freshness
from multigrain.pipeline.check import check
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.verbs import run


def test_changed_data_are_noticed(finished_run: Path) -> None:
    pairs = finished_run.parent / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("the cat is near", "a cat is near"))
    with pytest.raises(ConfigError, match="made from other input files"):
        run(load_config(finished_run))
    summary = run(load_config(finished_run), force=True)
    assert "a cat is near" in (load_config(finished_run).folder / "data" / "corpus.jsonl").read_text()
    assert summary["difference"]


def test_changed_models_are_noticed(run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished model is not written over because its base was fetched anew."""
    models = {key: tmp_path / key for key in ("base", "judge")}
    for folder in models.values():
        shutil.copytree(load_config(run_toml).model.base, folder)
    short = ["synthesis.limit=0", 'training.phases=[{name="b", grades=[4], steps=2}]']
    settings = [*short, f"model.base={models['base']}", f"grading.judge_model={models['judge']}"]
    config = load_config(run_toml, settings)
    run(config)
    for folder in models.values():
        before = (folder / "config.json").read_text()
        (folder / "config.json").write_text(before + "\n")
        with pytest.raises(ConfigError, match=f"made with other files of {folder}. .*--force"):
            run(config)
        assert f"holds a different run (other files of {folder})" in check(config)
        (folder / "config.json").write_text(before)
    (models["base"] / "config.json").write_text(before + "\n")
    run(config, force=True)
    manifest = json.loads((config.folder / "manifest.json").read_text())
    for entry in manifest.values():
        del entry["models"]
    (config.folder / "manifest.json").write_text(json.dumps(manifest))
    (models["base"] / "config.json").write_text(before)
    run(config)  # of earlier versions nobody knows it


SHORT = ["training.batch_size=4", "training.phases=[]"]


def test_other_steps_redo_what_is_asked_only_where_they_cut_it(finished_run: Path) -> None:
    """30 pairs are trained on; 8 steps of 4 see them all."""
    config = load_config(finished_run, [*SHORT, "training.steps=8"])
    run_dir = RunDir(config.folder)
    for stage in ("train", "evaluate", "export"):
        run_dir.forget(stage)
    done = ["data", "synthesize", "grade"]
    assert freshness.finished(config, run_dir) == done
    longer = load_config(finished_run, [*SHORT, "training.steps=80"])
    assert freshness.finished(longer, run_dir) == done and not freshness.freshness_of(longer, run_dir).is_outdated
    shorter = load_config(finished_run, [*SHORT, "training.steps=3"])
    assert freshness.finished(shorter, run_dir) == ["data"] and freshness.freshness_of(shorter, run_dir).is_outdated
    assert freshness.finished(
        load_config(finished_run, [*SHORT, "training.steps=3", "synthesis.limit=0"]), run_dir
    ) == ["data"]
