"""A run that is measured on tasks of every kind."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.errors import TrainingFailed
from multigrain.experiments.results import read_run
from multigrain.files import write_json
from multigrain.model.load import load_model
from multigrain.model.roles import Embed
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.spoiled_model import collapse_fault, lost_score_fault, pooling_cause, require_sound
from multigrain.pipeline.summary import render
from multigrain.records import Pair
from tests.conftest import small_pairs

WriteJsonl = Callable[[str, list[dict[str, Any]]], Path]


@pytest.fixture
def tasks(write_jsonl: WriteJsonl, tmp_path: Path) -> str:
    pairs = small_pairs(24)
    similar = [
        {"sentence1": a["positive"], "sentence2": b["positive"], "score": n % 5}
        for n, (a, b) in enumerate(zip(pairs, pairs[2:], strict=False))
    ]
    graded = [
        {
            "id": f"g{n}",
            "query": f"what sings near the {n % 7} {pair['positive']}",
            "positive": pair["positive"],
            "negatives": [{"text": f"stone {n}", "grade": 1, "score": 0.1, "source": "mined"}],
        }
        for n, pair in enumerate(pairs)
    ]
    write_jsonl("similar.jsonl", similar)
    write_jsonl("graded.jsonl", graded)
    folder = tmp_path / "hub" / "mteb" / "stsbenchmark-sts"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in similar))
    return 'evaluation.tasks = ["held-out", "sts:similar.jsonl", "graded:graded.jsonl", "mteb:STSBenchmark"]'


def test_tasks_of_every_kind(run_toml: Path, tasks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run_toml.read_text().replace('name = "tiny"', f'name = "tiny"\n{tasks}\nevaluation.mteb_data = "hub"')
    run_toml.write_text(text)
    assert main(["run", str(run_toml), "--quiet"]) == 0
    shown = capsys.readouterr().out
    run_dir = RunDir(load_config(run_toml).folder)
    scores = json.loads(run_dir.scores.read_text())
    names = ["held-out", "sts:similar", "graded:graded", "mteb:STSBenchmark"]
    assert list(scores["base"]) == list(scores["trained"]) == list(scores["difference"]) == names
    model = load_model(run_dir.model)
    rows = [json.loads(line) for line in (tmp_path / "similar.jsonl").read_text().splitlines()]
    one, other = (model.encode_document([row[side] for row in rows]) for side in ("sentence1", "sentence2"))
    expected = spearmanr((one * other).sum(axis=1), [row["score"] for row in rows]).statistic
    assert scores["trained"]["sts:similar"]["Spearman"] == pytest.approx(expected, abs=1e-6)
    assert scores["trained"]["mteb:STSBenchmark"]["main score"] == pytest.approx(expected, abs=1e-5)
    assert scores["difference"]["mteb:STSBenchmark"]["main score"][1:] == [None, None]
    low, value, high = (scores["difference"]["sts:similar"]["Spearman"][place] for place in (1, 0, 2))
    assert low <= value <= high
    assert re.search(r"^mteb:STSBenchmark +main score ", shown, re.MULTILINE) and "nan" not in shown
    card = (run_dir.model / "README.md").read_text()
    assert "| mteb:STSBenchmark | main score |" in card and "| sts:similar | Spearman |" in card
    results = list(run_dir.mteb("trained").rglob("STSBenchmark.json"))
    assert json.loads(results[0].read_text())["task_name"] == "STSBenchmark"  # in mteb's own form
    items = [json.loads(line) for line in run_dir.per_query.read_text().splitlines()]
    assert {item["task"] for item in items} == set(names[:3])


def test_a_query_of_a_graded_task_that_was_trained_on_is_refused(
    run_toml: Path, write_jsonl: WriteJsonl, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = small_pairs(1)[0]
    negative = {"text": "stone", "grade": 1, "score": 0.1, "source": "mined"}
    write_jsonl("graded.jsonl", [{"id": "g", **{k: pair[k] for k in ("query", "positive")}, "negatives": [negative]}])
    run_toml.write_text(run_toml.read_text().replace("held_out = 0.25", "held_out = 0"))
    assert main(["run", str(run_toml), "--set", "evaluation.tasks=['graded:graded.jsonl']"]) == 2
    assert "graded:graded: 1 of its queries are also in the training pairs" in capsys.readouterr().err


def test_half_precision_is_kept_apart(run_toml: Path) -> None:
    """Vectors in half precision are nearly, but not quite, the others; they must not stand for them."""
    assert main(["run", str(run_toml), "--quiet"]) == 0
    run_dir = RunDir(load_config(run_toml).folder)
    before = run_dir.vectors.read_bytes()
    assert main(["evaluate", str(run_toml), "--quiet", "--force", "--set", "evaluation.precision=bf16"]) == 0
    assert run_dir.vectors.read_bytes() != before and b"bf16" in run_dir.vectors.read_bytes()[:200]
    assert b"bf16" in run_dir.base_vectors.read_bytes()[:200]


def test_a_model_far_below_its_base_is_a_failed_stage(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [str(run_toml), "--set", "training.learning_rate=0.9"]
    config = load_config(run_toml, wrong[2:])
    run_dir = RunDir(config.folder)
    for verb in ("run", "evaluate", "export", "run"):
        assert main([verb, *wrong]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "multigrain: " in error and "the training has spoiled the model: all texts have the same vector" in error
        assert "training.learning_rate is too high (by default it is 5e-05). Lower it" in error
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
    with pytest.raises(TrainingFailed, match="its vectors are no numbers. Most likely training.learning_rate"):
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
            assert (
                f'Most likely model.pooling = "{pooling}" is the cause: the base pools by {own}' in said
            ) is is_cause
            assert "training.learning_rate is too high" in said
    modules.clear()
    write_json(base / "modules.json", modules)  # a plain folder is measured with the mean
    assert "the base pools by mean" in told("last", base) and "Most likely training.learning" in told("mean", base)


def test_few_items_are_told_beside_the_figure(run_toml: Path) -> None:
    summary = {
        "name": "x",
        "counts": {},
        "seconds": {},
        "base": {"held-out": {"nDCG@10": 0.5}},
        "trained": {"held-out": {"nDCG@10": 0.6}},
        "difference": {"held-out": {"nDCG@10": [0.1, 0.0, 0.2]}},
        "items": {"held-out": 10},
    }
    config = load_config(run_toml)
    write_json(RunDir(config.folder).examples, [])
    assert "\nheld-out: 10 items are few; do not trust the interval\n\nverdict " in render(config, summary)
    assert "few" not in render(config, {**summary, "items": {"held-out": 20}})
