"""The trainings by sentence-transformers' own trainer that a run is compared with."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors.numpy import load_file

from multigrain.cli.main import main
from multigrain.config import BaselineSection, Config, load_config
from multigrain.data.jsonl import read_pairs
from multigrain.evaluation.evaluate import evaluate
from multigrain.evaluation.metrics import overall
from multigrain.evaluation.tasks import load_task
from multigrain.model.encode import encode
from multigrain.model.load import load_base, load_model
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import baseline
from multigrain.pipeline.verbs import run
from multigrain.records import Document
from multigrain.training.stock import StockTraining, mined_rows, pair_rows
from tests import warm

AGAINST = ["--against", "stock"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that the cosines of the tiny encoder, which are all near 1, can be below."""
    monkeypatch.setattr("multigrain.training.stock.MARGIN", 1e-6)


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def arms_of(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RunDir(config.folder).arms.read_text())
    return found


def by_sentence_transformers(config: Config, rows: Dataset, steps: int, folder: Path) -> Path:
    """What a user writes who has sentence-transformers alone."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(config.model.base)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=config.training.batch_size,
        learning_rate=config.training.learning_rate,
        warmup_steps=round(0.1 * steps),
        batch_sampler="no_duplicates",
        seed=config.seed,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def test_an_arm_is_what_sentence_transformers_trains_even_when_it_was_killed(
    finished_run: Path, tmp_path: Path
) -> None:
    """Killed in the middle of an arm, it goes on, ends at the step that was planned, and with the same weights."""
    config = load_config(finished_run)
    run_dir = RunDir(config.folder)
    checkpoint = run_dir.baseline / "checkpoints" / "in-batch" / "checkpoint-2"
    process = warm.start("run", str(finished_run), "--quiet", *AGAINST)
    while process.is_alive() and not (checkpoint / "trainer_state.json").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    planned = json.loads(run_dir.arm_plan("in-batch").read_text())
    assert not (run_dir.baseline / "in-batch").exists() and not run_dir.arms.exists()
    assert main(["run", str(finished_run), "--quiet", *AGAINST]) == 0
    arm = arms_of(config)["arms"]["in-batch"]
    assert arm == planned and arm["steps"] > 2
    assert not checkpoint.exists()

    rows = pair_rows(list(read_pairs(run_dir.train_pairs)))
    expected = weights(by_sentence_transformers(config, rows, arm["steps"], tmp_path / "own"))
    found = weights(run_dir.baseline / "in-batch")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_arms_are_measured_as_the_trained_model_is(
    finished_run: Path, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(finished_run), *AGAINST]) == 0
    shown = capsys.readouterr()
    config = load_config(finished_run)
    run_dir = RunDir(config.folder)
    pairs = list(read_pairs(run_dir.held_out_pairs))
    documents = [Document(**json.loads(line)) for line in run_dir.corpus.read_text().splitlines()]
    task = load_task("held-out", pairs, documents)
    scores = json.loads(run_dir.scores.read_text())
    items = [json.loads(line) for line in run_dir.per_query.read_text().splitlines()]
    for arm in ("in-batch", "mined"):
        model = load_model(run_dir.baseline / arm)

        def embed(texts: Any, role: Role, model: Any = model) -> Vectors:
            return encode(model, texts, role, "test")

        expected = evaluate(task, embed).scores
        assert scores["others"]["held-out"][arm]["scores"] == pytest.approx(overall(expected.values()), abs=1e-6)
        assert {item["query"]: item[arm] for item in items} == expected
        over_base, trained_over = (
            scores["others"]["held-out"][arm][name]["nDCG@10"][0] for name in ("over_base", "trained_over")
        )
        assert over_base + trained_over == pytest.approx(scores["difference"]["held-out"]["nDCG@10"][0])
    *_, verdict, _ = shown.out.strip().split("\n\n")
    lines = [line.split()[1:4] for line in verdict.splitlines()[1:]]
    assert lines[:3] == [[against, "held-out", "nDCG@10"] for against in ("base", "in-batch", "mined")]
    assert len(lines) == 6  # and BM25; and base + BM25, against which the model stands alone and with BM25
    assert arms_of(config)["arms"]["mined"]["negatives"] == 4

    # The second time nothing is trained; an arm alone is trained again where it alone is gone.
    assert main(["run", str(finished_run), *AGAINST]) == 0
    assert "baseline: already done (2 arms" in capsys.readouterr().err
    shutil.rmtree(run_dir.baseline / "mined")
    assert main(["run", str(finished_run), *AGAINST]) == 0
    err = capsys.readouterr().err
    assert "in-batch: already trained" in err and "mined: already trained" not in err

    # What `stock` has trained is what `auto` would train. Without a baseline the arms are no part of the outcome.
    assert main(["run", str(finished_run), "--against", "auto"]) == 0
    assert "baseline: already done (2 arms" in capsys.readouterr().err
    assert main(["run", str(finished_run), "--against", "none", "--force"]) == 0
    assert set(json.loads(run_dir.scores.read_text())["others"]["held-out"]) == {"BM25", "base + BM25"}


def test_an_arm_costs_what_the_training_cost(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps at 2 seconds each: the timed ones say how many steps of the arm are 6 seconds."""
    config = load_config(run_toml)
    rows = Dataset.from_dict({"anchor": ["the cat", "a dog"], "positive": ["cat", "dog"]})
    readings = iter(range(10_000))
    monkeypatch.setattr("multigrain.training.callbacks.seconds_used", lambda _device: 1.5 * next(readings))
    training = StockTraining(rows, config.training, seed=7)
    assert training.steps_within(6.0, load_base(config.model.base)) == 4
    assert training.steps_within(0.1, load_base(config.model.base)) == 1

    run_dir = RunDir(config.folder)
    run_dir.training.mkdir(parents=True)
    lines = [{"step": 1, "seconds": 2.0}, {"step": 1, "held_out": {}}, {"step": 2, "seconds": 2.5}]
    run_dir.training_log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert baseline._seconds_of_training(run_dir) == 4.5
    run_dir.training_log.write_text('{"step": 1}\n')
    assert baseline._seconds_of_training(run_dir) is None


def test_the_training_notes_what_a_step_cost(finished_run: Path) -> None:
    config = load_config(finished_run)
    lines = [json.loads(line) for line in RunDir(config.folder).training_log.read_text().splitlines()]
    assert len(lines) == 8 and all(0 < line["seconds"] < 60 for line in lines)


def test_negatives_are_the_nearest_below_the_bound() -> None:
    """Cosines with the query: positive 0.8, so a negative may have 0.76 at most; the text at 0.77 may answer it."""
    cosines = {"positive": 0.8, "a": 0.9, "b": 0.77, "c": 0.75, "d": 0.5, "e": 0.6, "f": 0.1, "g": 0.2}
    vectors = {text: [cosine, (1 - cosine**2) ** 0.5] for text, cosine in cosines.items()}

    def embed(texts: Any, role: Role) -> Vectors:
        assert {"query"} == set(texts) if role == "query" else "positive" in texts
        return np.array([[1.0, 0.0] if text == "query" else vectors[text] for text in texts], dtype=np.float32)

    rows = Dataset.from_dict({"anchor": ["query"], "positive": ["positive"]})
    (row,) = mined_rows(rows, [text for text in cosines if text != "positive"], embed)
    assert [row[f"negative_{n}"] for n in range(1, 5)] == ["c", "e", "d", "g"]
    assert len(mined_rows(rows, ["a", "c", "d", "e"], embed)) == 0  # three are no four


def test_held_out_documents_are_no_negatives(finished_run: Path, narrow: None) -> None:
    config = load_config(finished_run)
    held_out = {pair.positive for pair in read_pairs(RunDir(config.folder).held_out_pairs)}
    rows = baseline._training("mined", config, RunDir(config.folder)).rows
    negatives = {row[f"negative_{n}"] for row in rows for n in range(1, 5)}
    assert negatives and not negatives & held_out


def test_auto_leaves_out_what_takes_long(
    finished_run: Path, narrow: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = ["run", str(finished_run), "--against", "auto"]
    monkeypatch.setattr(baseline, "MOST_DOCUMENTS", 39)
    assert main(auto) == 0
    said = capsys.readouterr().err
    assert "no baseline: there are 40 documents" in said and "--against stock" in said
    assert main(auto) == 0
    assert "baseline: already done" in capsys.readouterr().err
    assert main(["run", str(finished_run), *AGAINST]) == 0  # who asks for it gets it
    assert set(arms_of(load_config(finished_run))["arms"]) == {"in-batch", "mined"}


def test_a_log_without_costs_is_told(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunDir(load_config(finished_run).folder).training_log
    log.write_text('{"step": 1, "loss": 1.0}\n')  # as earlier versions wrote it
    assert main(["run", str(finished_run), *AGAINST]) == 2
    assert "the time of the steps is missing. Run: multigrain train" in capsys.readouterr().err
    assert main(["run", str(finished_run), "--against", "auto"]) == 0
    assert "the log does not have the time of the training" in capsys.readouterr().err


def test_an_adapter_is_not_compared_with_a_training_of_all_weights(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = ["run", str(run_toml), "--set", "model.lora.rank=2", "--set", "model.pooling=mean"]
    assert main([*adapter, *AGAINST]) == 2
    assert 'baseline.against: found "stock", which trains all weights' in capsys.readouterr().err
    assert not load_config(run_toml).folder.exists()


def test_an_unknown_baseline_is_refused(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(run_toml), "--against", "stok"])
    assert "stok" in capsys.readouterr().err
    assert main(["run", str(run_toml), "--set", 'baseline.against="stok"']) == 2
    assert "baseline.against" in capsys.readouterr().err


def test_pairs_without_negatives_leave_the_mined_arm_out(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the tiny encoder all texts are near each other, so each may answer each query; the other arm is trained."""
    assert main(["run", str(finished_run), *AGAINST]) == 0
    said = capsys.readouterr()
    assert "no arm mined" in said.err and "mined" not in said.out.split("verdict")[1]
    assert set(arms_of(load_config(finished_run))["arms"]) == {"in-batch"}


def test_an_arm_for_which_memory_does_not_suffice(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asks for it hears what to do; a run that nobody asked goes on without."""

    def out_of_memory(*_: Any) -> int:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GB")

    monkeypatch.setattr(StockTraining, "steps_within", out_of_memory)
    run_dir = RunDir(load_config(finished_run).folder)
    for made_after_it in (run_dir.scores.parent, run_dir.model):
        shutil.rmtree(made_after_it)
    assert main(["run", str(finished_run), *AGAINST]) == 2
    assert "holds a whole batch in memory. Lower training.batch_size, or use --against none" in capsys.readouterr().err
    assert not run_dir.arms.exists() and not run_dir.scores.exists()
    assert main(["run", str(finished_run), "--against", "auto"]) == 0
    assert "no baseline: training: out of memory" in capsys.readouterr().err
    assert run_dir.model.is_dir()


def test_an_arm_whose_weights_are_no_numbers_is_left_out(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(_self: StockTraining, model: Any, *_: Any) -> float:
        next(model.parameters()).data[0] = float("nan")
        return 0.0

    monkeypatch.setattr(StockTraining, "train", diverging)
    assert main(["run", str(finished_run), *AGAINST]) == 0
    assert "no arm in-batch: its weights are not finite" in capsys.readouterr().err
    assert arms_of(load_config(finished_run))["arms"] == {}


def test_precision_prompts_and_length_are_those_of_the_run(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the trainer is given; and a saved arm cuts texts where the run's model does, not where training did."""
    config = load_config(
        run_toml,
        [
            *('training.precision="bf16"', "training.max_tokens=8", 'model.query_prompt="the "', "model.pooling=mean"),
            "synthesis.limit=0",
        ],
    )
    read: list[tuple[int, Any]] = []
    train = StockTraining.train

    def noted(self: StockTraining, model: Any, *arguments: Any) -> float:
        trained = self._trainer(model, Path(config.output) / "unused", 1, "no").args
        read.append((model.max_seq_length, trained.prompts))
        assert trained.bf16 and trained.warmup_steps == 0 and trained.learning_rate == config.training.learning_rate
        return train(self, model, *arguments)

    monkeypatch.setattr(StockTraining, "train", noted)
    run(config.model_copy(update={"baseline": BaselineSection(against="stock")}))
    assert read == [(8, {"anchor": "the ", "positive": ""})]
    model = load_model(RunDir(config.folder).baseline / "in-batch")
    assert model.max_seq_length == 32 and model.prompts["query"] == "the "
