"""When a training has spoiled the model, and what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.errors import TrainingFailed
from multigrain.experiments.results import read_run
from multigrain.files import write_json
from multigrain.model.roles import Embed
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.spoiled_model import collapse_fault, lost_score_fault, pooling_cause, require_sound
from multigrain.records import Pair


def test_a_model_far_below_its_base_is_a_failed_stage(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [str(run_toml), "--set", "training.learning_rate=0.9"]
    config = load_config(run_toml, wrong[2:])
    run_dir = RunDir(config.folder)
    for verb in ("run", "evaluate", "export", "run"):
        assert main([verb, *wrong]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "multigrain: " in error and "the training has spoiled the model: all texts have the same vector" in error
        assert "training.learning_rate is too high (the default is 5e-05). Lower it" in error
    assert not run_dir.model.exists()
    verbs.measure(config)  # a grid keeps the figure
    base, trained = read_run(config.folder)
    assert trained.scores["held-out"]["nDCG@10"] < base.scores["held-out"]["nDCG@10"]


@pytest.mark.parametrize(
    ("tasks", "is_lost"),
    [
        ({"held-out": (0.8, 0.3, -0.2, 40)}, True),
        ({"held-out": (0.8, 0.41, -0.2, 40)}, False),
        ({"held-out": (0.8, 0.3, 0.1, 40)}, False),  # by chance, perhaps
        ({"held-out": (0.8, 0.3, -0.5, 4)}, False),
        ({"held-out": (0.04, 0.0, -0.01, 40)}, False),
        ({"held-out": (0.8, 0.7, -0.05, 40), "beir:x:test": (0.8, 0.1, -0.6, 40)}, False),  # forgotten, not spoiled
        ({"beir:x:test": (0.8, 0.1, -0.6, 40), "mteb:STS": (0.8, 0.1, None, 40)}, True),
    ],
)
def test_when_a_training_has_lost_too_much(
    tasks: dict[str, tuple[float, float, float | None, int]], is_lost: bool
) -> None:
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}, "items": {}}
    for name, (before, after, high, items) in tasks.items():
        scores["base"][name], scores["trained"][name] = {"nDCG@10": before}, {"nDCG@10": after}
        scores["difference"][name] = {"nDCG@10": [after - before, None if high is None else -1.0, high]}
        scores["items"][name] = items
    assert bool(lost_score_fault(scores)) is is_lost


def test_vectors_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    def embed(value: float) -> Embed:
        return lambda texts, role: np.full((len(texts), 4), value, np.float32)

    pairs = [Pair(str(i), f"q{i}", f"p{i}") for i in range(3)]
    with pytest.raises(TrainingFailed, match="its vectors are not finite. Most likely training.learning_rate"):
        collapse_fault(embed(0.5), embed(float("nan")), pairs, RunDir(tmp_path))
    assert collapse_fault(embed(0.5), embed(0.5), pairs, RunDir(tmp_path)) is None  # the base is no better


def test_another_pooling_than_the_base_has_is_named_before_the_learning_rate(run_toml: Path, tmp_path: Path) -> None:
    def told(pooling: str, base: Path) -> str:
        config = load_config(run_toml, [f"model.pooling={pooling}", f"model.base={base}"])
        run_dir = RunDir(config.folder)
        write_json(run_dir.scores, {"fault": "half is lost", "cause": pooling_cause(config.model)})
        with pytest.raises(TrainingFailed) as caught:
            require_sound(run_dir)
        return str(caught.value)

    base = tmp_path / "base"
    (base / "1_Pooling").mkdir(parents=True)
    (base / "config.json").write_text("{}")
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    write_json(base / "modules.json", modules)
    for mode, own in (("mean", "mean"), ("cls", "cls")):
        write_json(base / "1_Pooling" / "config.json", {"pooling_mode": mode})
        for pooling in ("mean", "cls", "last", "anchor"):
            said = told(pooling, base)
            is_cause = pooling != own and (own, pooling) != ("mean", "anchor")
            assert said.startswith(f"{load_config(run_toml).folder}: the trained model is far worse") is is_cause
            assert (f'Most likely model.pooling = "{pooling}" is the cause: the base uses {own}' in said) is is_cause
            assert "training.learning_rate is too high" in said
    modules.clear()
    write_json(base / "modules.json", modules)  # a plain folder is measured with the mean
    assert "the base uses mean pooling" in told("last", base) and "Most likely training.learning" in told("mean", base)
