"""What is exported, by what was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.evaluation.evaluate import Scores
from multigrain.evaluation.significance import Difference
from multigrain.files import write_objects
from multigrain.model.load import load_base, load_model
from multigrain.pipeline import choice
from multigrain.pipeline.choice import Choice, choose, halves
from multigrain.pipeline.run_dir import RunDir

IDS = [f"q{n}" for n in range(80)]
DEV, REST = halves(IDS)


def items(values: dict[str, float], on_rest: dict[str, float] | None = None) -> dict[str, Scores]:
    """Scores that are the same on all items of a half, but for a little that differs from item to item."""
    found: dict[str, Scores] = {}
    for model, value in values.items():
        rest = (on_rest or {}).get(model, value)
        noise = {id: 0.01 * ((n * 7 + len(model)) % 5 - 2) for n, id in enumerate(IDS)}
        found[model] = {id: {"nDCG@10": (value if id in DEV else rest) + noise[id]} for id in IDS}
    return found


def chosen(values: dict[str, float], on_rest: dict[str, float] | None = None, force: bool = False) -> Choice:
    return choose("held-out", "nDCG@10", items(values, on_rest), seed=7, force=force, dev={})


def test_the_best_of_the_first_half_is_chosen_and_measured_on_the_other() -> None:
    """`mined` wins where the choice is made, by 0.2 over the base, and loses a part of it where it is measured."""
    made = chosen({"trained": 0.6, "in-batch": 0.5, "mined": 0.7, "base": 0.5}, on_rest={"mined": 0.55})
    assert made.model == "mined" and made.loss is None
    assert made.over_base is not None and made.over_base.value == pytest.approx(0.05, abs=0.01)
    assert "best by nDCG@10 on one half (40 items) of held-out" in made.reason and "in-batch 0.499" in made.reason
    assert made.reason.endswith("on the other half +0.049 [+0.042, +0.055] over its base")
    assert chosen({"trained": 0.6, "in-batch": 0.5, "base": 0.5}).model == "trained"


def test_dev_queries_choose_where_there_are_some_and_all_items_measure() -> None:
    """`in-batch` is the best on dev; on the task `mined` would be."""
    dev = {
        model: {f"d{n}": {"nDCG@10": value} for n in range(30)}
        for model, value in {"trained": 0.6, "in-batch": 0.7, "mined": 0.5, "base": 0.4}.items()
    }
    on_task = items({"trained": 0.6, "in-batch": 0.55, "mined": 0.9, "base": 0.5})
    made = choose("held-out", "nDCG@10", on_task, seed=7, force=False, dev=dev)
    assert made.model == "in-batch" and "best by nDCG@10 on 30 dev queries" in made.reason
    assert made.over_base is not None and made.over_base.value == pytest.approx(0.05, abs=0.01)
    assert "; on held-out +0.0" in made.reason
    worse = {**dev, "base": {id: {"nDCG@10": 0.8} for id in dev["base"]}}
    assert choose("held-out", "nDCG@10", on_task, seed=7, force=False, dev=worse).model == "base"


def test_of_equals_the_runs_own_model_is_chosen() -> None:
    same = items({"trained": 0.5})["trained"]
    made = choose("held-out", "nDCG@10", {"trained": same, "mined": same, "base": same}, seed=7, force=False, dev={})
    assert made.model == "trained"


def test_a_base_that_is_as_good_is_exported_and_one_that_is_better_is_a_loss() -> None:
    level = {"trained": 0.499, "in-batch": 0.4, "base": 0.5}
    assert chosen(level, on_rest={"trained": 0.501}).model == "base"
    assert chosen(level, on_rest={"trained": 0.501}, force=True).model == "trained"
    lost = chosen({"trained": 0.4, "in-batch": 0.45, "base": 0.5})
    assert (lost.model, lost.loss is not None and lost.loss.high < 0) == ("in-batch", True)


def test_few_items_choose_nothing_and_forbid_nothing_unless_they_are_enough_for_an_interval() -> None:
    known = items({"trained": 0.3, "mined": 0.6, "base": 0.5})

    def of(count: int) -> Choice:
        some = {model: {id: scores[id] for id in IDS[:count]} for model, scores in known.items()}
        return choose("held-out", "nDCG@10", some, seed=7, force=False, dev={})

    assert (of(10).model, of(10).loss) == ("trained", None) and "too few for a choice" in of(10).reason
    assert of(39).model == "trained" and of(39).loss is not None
    assert of(40).model == "mined" and of(40).loss is None


@given(st.sets(st.text(max_size=5), max_size=30))
def test_halves_part_the_items_whatever_their_order(ids: set[str]) -> None:
    one, other = halves(sorted(ids))
    assert {*one} | {*other} == ids and len(one) + len(other) == len(ids) and 0 <= len(other) - len(one) <= 1
    assert halves(sorted(ids, reverse=True)) == (one, other)


def test_rank_correlations_are_taken_of_a_half_too() -> None:
    """The trained model orders the pairs as people do, the base the other way round."""
    gold = {id: {"gold": float(n)} for n, id in enumerate(IDS)}
    sides = {
        name: {id: {"cosine": sign * n, **gold[id]} for n, id in enumerate(IDS)}
        for name, sign in (("trained", 1.0), ("base", -1.0))
    }
    made = choose("sts:x", "Spearman", sides, seed=7, force=False, dev={})
    assert made.model == "trained" and made.over_base is not None and made.over_base.value == pytest.approx(2.0)


def lost_to_base(*_: Any, **__: Any) -> Choice:
    return Choice("trained", "it is", loss=Difference(-0.05, -0.08, -0.02))


@pytest.fixture
def measured_run(finished_run: Path) -> Path:
    """The file of a run that is finished up to the choice of what is exported."""
    run_dir = RunDir(load_config(finished_run).folder)
    shutil.rmtree(run_dir.model)
    run_dir.choice.unlink()
    return finished_run


def test_a_model_that_lost_to_its_base_is_not_exported(
    measured_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "choose", lost_to_base)
    run_dir = RunDir(load_config(measured_run).folder)
    for _ in range(2):
        assert main(["run", str(measured_run), "--quiet"]) == 2
        err = capsys.readouterr().err
        assert "(trained) has lost to its base: nDCG@10 -0.050 [-0.080, -0.020] on held-out" in err and "--force" in err
        assert not run_dir.model.exists() and not run_dir.choice.exists()
    assert main(["evaluate", str(measured_run), "--quiet"]) == 0
    assert "held-out  nDCG@10" in capsys.readouterr().out
    assert main(["export", str(measured_run), "--force"]) == 0
    assert "trained is exported, although it has lost to its base" in capsys.readouterr().err
    assert main(["run", str(measured_run), "--quiet"]) == 0  # it is done
    assert (run_dir.model / "model.safetensors").samefile(run_dir.trained / "model.safetensors")


def test_an_arm_is_exported_with_a_card_of_its_own(
    measured_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "choose", lambda *_, **__: Choice("in-batch", "it was better"))
    assert main(["run", str(measured_run), "--quiet", "--against", "stock"]) == 0
    config = load_config(measured_run)
    run_dir = RunDir(config.folder)
    assert f"model    {run_dir.model}\nwhich    in-batch: it was better\n" in capsys.readouterr().out
    assert (run_dir.model / "model.safetensors").samefile(run_dir.baseline / "in-batch" / "model.safetensors")
    card: Any = ModelCard.load(run_dir.model / "README.md")
    scores = json.loads(run_dir.scores.read_text())
    figures = scores["others"]["held-out"]["in-batch"]["scores"]
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == pytest.approx(
        figures, abs=1e-4
    )
    arm = json.loads(run_dir.arms.read_text())["arms"]["in-batch"]
    assert (
        "with the stock sentence-transformers trainer (MultipleNegativesRankingLoss, in-batch negatives)" in card.text
    )
    assert f"The training drew from {arm['pairs']} pairs ({arm['steps']} steps of 4 pairs each)" in card.text
    assert "The exported model is `in-batch`: it was better." in card.text and "trust_remote_code" not in card.text
    assert "| against |" in card.text and "| in-batch | held-out | nDCG@10 |" in card.text


def test_the_base_is_exported_as_it_is(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "choose", lambda *_, **__: Choice("base", "nothing was better"))
    prompts = ["--set", 'model.query_prompt="the "', "--set", "model.pooling=mean", "--force"]
    assert main(["run", str(finished_run), "--quiet", *prompts]) == 0
    config = load_config(finished_run)
    run_dir = RunDir(config.folder)
    model, base = load_model(run_dir.model), load_base(config.model.base, config.model.max_tokens)
    assert np.array_equal(model.encode_query(["red cat"]), base.encode(["the red cat"]))
    assert not (run_dir.baseline / "base").exists()
    text = (run_dir.model / "README.md").read_text()
    assert ", unchanged: no training on the data below improved it." in text and "was not trained on this data" in text


def test_dev_queries_have_no_say_where_a_task_has_another_metric(tmp_path: Path) -> None:
    """A search by dev queries has no rank correlation, which is the first metric where sentences are compared."""
    run_dir = RunDir(tmp_path)
    write_objects(run_dir.per_dev_query, [{"query": "d", "base": {"nDCG@10": 0.5}, "trained": {"nDCG@10": 0.6}}])
    models = ["trained", "base"]
    assert choice._dev_items("nDCG@10", models, run_dir)["trained"] == {"d": {"nDCG@10": 0.6}}
    assert choice._dev_items("Spearman", models, run_dir) == {}
