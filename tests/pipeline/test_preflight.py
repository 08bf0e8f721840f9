"""What a later stage needs is tried before the first request, by `check` and by the run itself."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import load_config
from multigrain.errors import ConfigError, MultigrainError
from multigrain.experiments.ablate import check_grid
from multigrain.pipeline import verbs
from multigrain.pipeline.check import check
from multigrain.pipeline.preflight import require
from tests.pipeline.stages.test_pairs import MODES

Write = Callable[[str, list[dict[str, Any]]], Path]


def refused(run_toml: Path, *settings: str) -> str:
    """What check and run both say, before anything is made."""
    config = load_config(run_toml, settings)
    told = []
    for verb in (check, verbs.run, verbs.synthesize):
        with pytest.raises(MultigrainError) as caught:
            verb(config)
        assert caught.value.exit_code == 2
        told.append(str(caught.value))
    assert told[0] == told[1] == told[2]
    assert not (config.folder / "synthesis").exists()
    return told[0]


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else real(name, *more))


@pytest.mark.parametrize(
    ("package", "setting", "extra"),
    [
        ("onnx", "export.onnx=true", "onnx"),
        ("onnxruntime", "export.onnx=true", "onnx"),
        ("mteb", 'evaluation.tasks=["mteb:STSBenchmark"]', "mteb"),
        ("tensorboard", 'training.report_to=["tensorboard"]', "tensorboard"),
        ("wandb", 'training.report_to=["wandb"]', "wandb"),
        ("bitsandbytes", 'model.lora={quantize="4bit"}', "qlora"),
        ("gguf", 'grading.judge_model="embedded-llm"', "embedded"),
    ],
)
def test_a_package_that_is_missing(
    run_toml: Path, monkeypatch: pytest.MonkeyPatch, package: str, setting: str, extra: str
) -> None:
    without(package, monkeypatch)
    assert f'{package}: not installed. Run: pip install "multigrain[{extra}]"' in refused(run_toml, setting)


def test_an_arm_of_too_few_steps_is_told(tmp_path: Path, run_toml: Path) -> None:
    grid = tmp_path / "grid.toml"
    arm = '[arms.short]\ntraining = { phases = [], schedule = "coarse-to-fine", steps = 2 }'
    grid.write_text(f'name = "grid"\nrun = "{run_toml.name}"\n[arms.a]\n{arm}\n')
    with pytest.raises(ConfigError, match=r"grid.toml: arm short: training.steps: found 2; 4 phases need"):
        check_grid(grid)


def test_an_output_that_is_no_folder(run_toml: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for output in ("file", "file/below", "nowhere"):
        config = load_config(run_toml, [f"output={tmp_path / output}"])
        for verb in (check, verbs.run):
            with pytest.raises(
                ConfigError, match=f"output: .*{output.split('/')[0]} is not a folder; the run folder is"
            ):
                verb(config)


@pytest.mark.parametrize("place", ["", "runs", "runs/tiny", "runs/tiny/model"])
def test_an_output_that_nobody_may_write_to(
    run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    locked = tmp_path / place
    locked.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)  # the tests may be root's, who may all
    with pytest.raises(ConfigError, match=f"output: {locked} cannot be written to"):
        check(load_config(run_toml))


@pytest.mark.parametrize("mode", ["corpus", "tasks"])
@pytest.mark.parametrize("damage", ["absent", "empty", "broken", "no documents"])
def test_the_evaluation_is_read_before_pairs_are_written(
    mode: str, damage: str, run_toml: Path, tmp_path: Path
) -> None:
    data, synthesis = MODES[mode]
    text = (
        run_toml.read_text()
        .replace('pairs = "pairs.jsonl"\n', f"{data}\n")
        .replace("[synthesis]", f"[synthesis]\n{synthesis}")
    )
    run_toml.write_text(text)
    (tmp_path / "corpus.jsonl").write_text(
        json.dumps({"id": "1", "text": "the cat sleeps near the old river house " * 3})
    )
    beir, sts = tmp_path / "beir", tmp_path / "sts.jsonl"
    (beir / "qrels").mkdir(parents=True)
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    (beir / "queries.jsonl").write_text('{"_id": "1", "text": "q"}\n')
    if damage == "empty":
        sts.write_text("")
    if damage == "broken":
        sts.write_text('{"sentence1": "a", "sentence2": "b"}\n')
    task = f"beir:{beir}:test" if damage == "no documents" else f"sts:{sts}"
    said = refused(run_toml, f'evaluation.tasks=["{task}"]')
    wanted = {"absent": "no such file", "empty": "0 pairs", "broken": '"score"', "no documents": "no corpus.jsonl"}
    assert wanted[damage] in said


def test_steps_that_do_not_suffice_for_the_phases(run_toml: Path) -> None:
    said = refused(run_toml, "training.phases=[]", 'training.schedule="coarse-to-fine"', "training.steps=3")
    assert "training.steps: found 3; 4 phases need at least one step each; raise it" in said


def test_a_key_is_wanted_by_whoever_asks_and_by_nobody_else(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    server = ['llm={provider="endpoint", base_url="http://127.0.0.1:9/v1", model="m", api_key_env="NO_KEY"}']
    for settings in ([], ["synthesis.limit=0", 'grading.judge=["embedding", "llm"]']):
        with pytest.raises(ConfigError, match="the environment variable NO_KEY is not set"):
            require(load_config(run_toml, [*server, *settings]))
    for settings in (["synthesis.limit=0"], ['synthesis.sources={1="mined", 2="mined", 3="mined", 4="mined"}']):
        require(load_config(run_toml, [*server, *settings]))
        assert "  llm         not used" in check(load_config(run_toml, [*server, *settings]))


def test_prompts_that_are_not_there(run_toml: Path, tmp_path: Path) -> None:
    assert "wanted a folder with prompts" in refused(run_toml, f"synthesis.prompts={tmp_path / 'no'}")
