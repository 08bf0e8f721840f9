"""Whole runs, on a tiny encoder and the scripted language model: seconds each."""

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import Trainer

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.errors import LLMReplyError, RunError
from multigrain.evaluation.metrics import is_of_model
from multigrain.model.load import load_model
from multigrain.pipeline import stage_table, verbs
from multigrain.pipeline.verbs import run
from tests import warm

RESULTS = (
    "data/train.jsonl",
    "data/held_out.jsonl",
    "data/corpus.jsonl",
    "synthesis/candidates.jsonl",
    "grading/tuples.jsonl",
    "grading/dropped.jsonl",
    "training/log.jsonl",
    "evaluation/scores.json",
    "evaluation/per_query.jsonl",
    "model/model.safetensors",
)


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of each; how fast the training went is left out."""
    return {
        name: re.sub(rb'"(tokens_per_second|seconds)": [\d.]+, ', b"", (folder / name).read_bytes()) for name in RESULTS
    }


def seconds_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())["seconds"]  # type: ignore[no-any-return]


def test_a_run_leaves_what_the_contract_names(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(run_toml), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    *_, table, retrievers, verdict, further = out.strip().split("\n\n")  # what was found is seen without scrolling back
    assert table.startswith("task      metric") and "held-out  nDCG@10" in table
    assert retrievers.startswith("task                model") and "answers  by hybrid (cosine + 0.3 BM25)" in retrievers
    head, first, *others = verdict.splitlines()
    assert head.split()[:2] == ["verdict", "against"]
    assert re.fullmatch(r"(WIN|LEVEL|LOSS) +base +held-out +nDCG@10 +[+-]\d\.\d{3} +\[.+\]", first)
    assert [re.split(r"  +", line)[1] for line in others] == ["BM25", "base + BM25", "base + BM25"]
    assert "1 tasks" not in out and "2 phases, 4 tuples per step\n" in out and "1 task" in out
    assert [line.split()[0] for line in further.splitlines()] == ["model", "which", "search", "explain", "dropped"]
    folder = load_config(run_toml).folder
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {
        *("name", "base", "trained", "difference", "items", "others", "retrieval", "verdict", "exported"),
        *("counts", "seconds", "tokens", "cost"),
    }
    metrics = {metric for metric in summary["trained"]["held-out"] if is_of_model(metric)}
    assert metrics == {"nDCG@10", "MRR@10", "Recall@100"} and len(summary["trained"]["held-out"]) == 9
    value, low, high = summary["difference"]["held-out"]["nDCG@10"]
    assert low <= value <= high
    assert summary["tokens"] > 0
    graded = json.loads((folder / "grading" / "tuples.jsonl").read_text().splitlines()[0])
    assert set(graded) == {"id", "query", "positive", "negatives", "score"}
    assert set(graded["negatives"][0]) == {"text", "grade", "score", "source"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest) == stage_table.names_of(load_config(run_toml))
    assert load_model(folder / "model").encode("the cat").shape == (32,)
    card: Any = ModelCard.load(folder / "model" / "README.md")
    assert "| coarse | 4 | 4 | 0.05 |" in card.text
    assert "trust_remote_code=True" in card.text  # of anchor pooling
    tuples = map(json.loads, (folder / "grading" / "tuples.jsonl").read_text().splitlines())
    negatives = [negative for graded in tuples for negative in graded["negatives"]]
    hardest = Counter(negative["source"] for negative in negatives if negative["grade"] == 4)  # its phases' only one
    assert f"| written by the language model | 0 | 0 | 0 | {hardest['llm']} |" in card.text
    assert f"with {hardest.total()} negatives of the grades in its schedule" in card.text
    assert {result.metric_name for result in card.data.eval_results or []} == {"nDCG@10", "MRR@10", "Recall@100"}
    # The weights are there once, and what only a resumed training needs is gone.
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folder / "model" / name).samefile(folder / "training" / "model" / name)
    assert not (folder / "model" / "config.json").samefile(folder / "training" / "model" / "config.json")
    assert len({path.stat().st_ino for path in folder.rglob("*.safetensors")}) == 1
    assert sorted(path.name for path in (folder / "training").iterdir()) == [
        *("curriculum.json", "fingerprint", "log.jsonl", "model")
    ]

    # A second time there is nothing to do, and the same figures are shown.
    before = results(folder)
    assert main(["run", str(run_toml)]) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert again.err.count("already done") == len(manifest)
    assert results(folder) == before


def test_stages_one_by_one_equal_a_run(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("synthesize", "grade", "train", "evaluate", "export"):  # one process, a stage each
        assert main([verb, str(finished_run), "--set", f"output={tmp_path / 'other'}"]) == 0, capsys.readouterr().err
    assert results(tmp_path / "other" / "tiny") == results(load_config(finished_run).folder)


def test_a_stage_wants_the_one_before(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(run_toml)]) == 2
    assert "the earlier stage synthesize is not done. Run: multigrain synthesize RUN.toml" in capsys.readouterr().err


def test_a_changed_setting_is_refused_and_force_redoes_what_it_changes(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = load_config(finished_run).folder
    before = results(folder)
    change = ["--set", "training.learning_rate=2e-3"]
    assert main(["run", str(finished_run), *change]) == 2
    assert "training.learning_rate = 0.002, in the folder 0.001" in capsys.readouterr().err
    assert results(folder) == before
    assert main(["run", str(finished_run), *change, "--force"]) == 0
    err = capsys.readouterr().err
    for stage in ("data", "synthesize", "grade"):
        assert f"{stage}: already done" in err
    after = results(folder)
    assert after["model/model.safetensors"] != before["model/model.safetensors"]
    assert after["grading/tuples.jsonl"] == before["grading/tuples.jsonl"]


def test_one_stage_cannot_be_forced_over_changed_data(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is evaluated decides what may be trained on, so the data stage would come out otherwise."""
    pairs = tmp_path / "sts.jsonl"
    pairs.write_text(
        "".join(json.dumps({"sentence1": f"a {n}", "sentence2": "b", "score": n}) + "\n" for n in range(9))
    )
    change = ["--set", f'evaluation.tasks=["sts:{pairs}"]', "--force"]
    assert main(["evaluate", str(finished_run), *change]) == 2
    assert "the earlier stage data is outdated by" in (err := capsys.readouterr().err)
    assert "Run: multigrain run RUN.toml --force" in err
    assert main(["evaluate", str(finished_run)]) == 0  # nothing was changed
    exported = results(load_config(finished_run).folder)["model/model.safetensors"]
    assert main(["train", str(finished_run), "--set", "training.learning_rate=2e-3", "--force"]) == 0
    assert results(load_config(finished_run).folder)["model/model.safetensors"] == exported  # a file of its own again
    assert main(["compare", str(load_config(finished_run).folder)]) == 2
    assert "the model is not measured yet" in capsys.readouterr().err


def test_a_run_that_was_wrong_can_be_mended_without_force(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--set", "synthesis.limit=0", "--set", 'training.phases=[{name="b", grades=[4], steps=2}]']
    large = ["run", str(run_toml), *short, "--set", "training.batch_size=1000"]
    assert main([*large, "--set", "data.limit=1"]) == 2
    assert main([*large, "--set", "model.pooling=mean", "--set", "llm.timeout=5"]) == 0
    said = capsys.readouterr().err
    assert "training.batch_size = 1000, but there are 30 training pairs: batches hold 30" in said
    assert said.count("batches hold") == 2  # the stage train counts tuples
    assert main([*large, "--set", "model.pooling=mean", "--set", "llm.timeout=6"]) == 0
    assert "already done" in capsys.readouterr().err


def test_an_interrupted_change_leaves_no_stage_done_that_is_not(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run A; begin B in the same folder and fail; run A again: the result is A's."""
    config = load_config(finished_run)
    expected = results(config.folder)
    with monkeypatch.context() as patch:
        patch.setattr("multigrain.retrieval.mine.mine_candidates", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            verbs.synthesize(load_config(finished_run, ["mining.per_grade=2"]), force=True)
    with pytest.raises(RunError, match="the earlier stage synthesize is not done"):
        verbs.grade(config, force=True)
    run(config, force=True)
    assert results(config.folder) == expected


def test_search_and_evaluation_keep_models_apart(finished_run: Path) -> None:
    """A search between a new training and its evaluation must not lend the old model's vectors to it."""
    config = load_config(finished_run)
    changed = load_config(finished_run, ["training.learning_rate=1e-2"])
    verbs.train(changed, force=True)
    verbs.search(config.folder, "where is the cat")
    mixed = verbs.evaluate(changed)["trained"]
    (config.folder / "search" / "vectors.bin").unlink()
    assert verbs.evaluate(changed, force=True)["trained"] == mixed


def test_kill_9_in_every_stage_changes_nothing(finished_run: Path, tmp_path: Path) -> None:
    """Killed a moment after each of these appears; then once to the end: as if nothing had happened."""
    undisturbed = load_config(finished_run).folder
    killed = tmp_path / "killed"
    draw = random.Random(1)
    moments = (
        "run.toml",
        "data/corpus.jsonl",
        "synthesis/store.sqlite",
        "synthesis/vectors.bin",
        "grading/dropped.jsonl",
        "training/checkpoints/checkpoint-2",
        "training/checkpoints/checkpoint-6",
        "training/model",
        "search/bm25",
        "evaluation/per_query.jsonl",
        "model.part",
    )
    for moment in moments:
        process = begin(finished_run, killed)
        while process.is_alive() and not (killed / "tiny" / moment).exists():
            time.sleep(0.002)
        time.sleep(draw.choice([0.0, 0.01, 0.1]))
        process.kill()
        process.join()
    finish(finished_run, killed)
    assert results(killed / "tiny") == results(undisturbed)


def begin(run_toml: Path, output: Path) -> BaseProcess:
    return warm.start("run", str(run_toml), "--quiet", "--set", f"output={output}")


def finish(run_toml: Path, output: Path) -> None:
    process = begin(run_toml, output)
    process.join()
    assert process.exitcode == 0


def test_a_finished_answer_is_not_asked_for_again(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The language model fails half way; the second time only the rest is asked."""
    from multigrain.llm.clients.scripted import ScriptedClient

    asked: list[str] = []
    answer = ScriptedClient.complete

    async def failing(self: Any, request: Any) -> Any:
        if len(asked) == 50:
            raise RuntimeError("power cut")
        asked.append(request.key)
        return await answer(self, request)

    monkeypatch.setattr(ScriptedClient, "complete", failing)
    config = load_config(run_toml)
    with pytest.raises(RuntimeError, match="power cut"):
        verbs.synthesize(config)
    first, asked[:] = set(asked), []
    monkeypatch.setattr(ScriptedClient, "complete", lambda s, r: asked.append(r.key) or answer(s, r))  # type: ignore[func-returns-value]
    counts = verbs.synthesize(config)["counts"]
    assert counts["requests"] == counts["written"] == 120
    assert len(asked) == counts["sent"]
    assert len(first) + len(asked) <= 120  # several pairs may exchange the same term
    assert not first & set(asked)


def test_a_killed_training_says_why_it_begins_anew(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def power_cut(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_rng_state", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            verbs.train(load_config(finished_run), force=True)
    assert any((load_config(finished_run).folder / "training" / "checkpoints").iterdir())
    capsys.readouterr()
    run(load_config(finished_run, ["training.learning_rate=2e-4"]))
    assert "training starts from the beginning" in capsys.readouterr().err


def test_a_run_that_was_killed_leaves_nothing_behind_once_it_is_finished(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the entry in the manifest and the end of the stage, and before in the middle of a file."""
    config = load_config(finished_run)
    whole = {path.relative_to(config.folder) for path in config.folder.rglob("*")}
    gone = warm.start("--version")
    gone.join()
    for name in ("training/checkpoints/checkpoint-2/model.safetensors", f"grading/tuples.jsonl.{gone.pid}.part"):
        (config.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (config.folder / name).write_bytes(b"half")
    of_others = [f"search/vectors.bin.{os.getppid()}.part", "data/mine.part"]
    for name in of_others:
        (config.folder / name).write_bytes(b"half")
    run(config)
    left = {path.relative_to(config.folder) for path in config.folder.rglob("*")}
    assert left - whole == set(map(Path, of_others)) and whole <= left


def test_force_on_a_single_stage_does_it_again(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(finished_run)
    expected = results(config.folder)
    verbs.train(config, force=True)
    err = capsys.readouterr().err
    assert "train: 8 steps" in err and "starts from the beginning" not in err  # nothing has changed
    assert len((config.folder / "training" / "log.jsonl").read_text().splitlines()) == 8
    run(config)
    assert results(config.folder) == expected


def test_deleted_files_are_made_again(finished_run: Path) -> None:
    config = load_config(finished_run)
    expected = results(config.folder)
    for name in ("data/corpus.jsonl", "grading/tuples.jsonl", "training/model", "evaluation/scores.json", "model"):
        path = config.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        run(config)
        assert results(config.folder) == expected, name


def test_a_language_model_that_is_no_help_stops_the_run(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from multigrain.llm.clients.scripted import ScriptedClient
    from multigrain.llm.protocol import Answer

    async def silent(self: Any, request: Any) -> Answer:
        return Answer(" ", 1, 1)

    monkeypatch.setattr(ScriptedClient, "complete", silent)
    with pytest.raises(LLMReplyError, match="none of the first 16 inputs .* the model wrote nothing"):
        run(load_config(run_toml))


def test_search_answers_from_the_exported_model(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = load_config(finished_run).folder
    assert main(["search", str(folder), "where is the cat", "--top", "3", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    scores = [float(line.split()[0]) for line in lines[::2]]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(RunError, match="there is no exported model yet"):
        verbs.search(folder.parent, "x")


def test_controls_of_the_curriculum_are_settings(run_toml: Path) -> None:
    """Mined only, with in-batch negatives alone, under the host's pooling: no code, three settings."""
    overrides = ["synthesis.limit=0", "model.pooling=mean", 'training.phases=[{name="b", grades=[], steps=2}]']
    config = load_config(run_toml, overrides)
    summary = run(config)
    assert summary["counts"]["requests"] == 0
    assert summary["counts"]["mined"] > 0
    assert json.loads((config.folder / "training" / "curriculum.json").read_text())[0]["grades"] == []
    assert not (config.folder / "model" / "pooling.py").exists()


def test_too_many_parked_requests_have_their_exit_code(
    run_toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(run_toml), "--set", "llm.max_requests=100"]) == 3
    assert "13 requests have no usable answer" in capsys.readouterr().err
    parked = (load_config(run_toml).folder / "synthesis" / "parked.jsonl").read_text().splitlines()
    assert json.loads(parked[0])["reason"] == "budget"
    assert "llm.max_requests = 100" in json.loads(parked[0])["detail"]
