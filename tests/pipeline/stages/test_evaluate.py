"""A run that is measured on tasks of every kind."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_pairs, read_tuples
from multigrain.model.load import load_model
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from tests.conftest import small_pairs

WriteJsonl = Callable[[str, list[dict[str, Any]]], Path]


@pytest.fixture
def tasks(finished_run: Path) -> str:
    """The setting of four tasks, whose files are beside the run's."""
    beside = finished_run.parent
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
    folder = beside / "hub" / "mteb" / "stsbenchmark-sts"
    folder.mkdir(parents=True)
    for path, rows in (
        (beside / "similar.jsonl", similar),
        (beside / "graded.jsonl", graded),
        (folder / "test.jsonl", similar),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 'evaluation.tasks = ["held-out", "sts:similar.jsonl", "graded:graded.jsonl", "mteb:STSBenchmark"]'


def test_tasks_of_every_kind(finished_run: Path, tasks: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = finished_run.read_text().replace('name = "tiny"', f'name = "tiny"\n{tasks}\nevaluation.mteb_data = "hub"')
    finished_run.write_text(text)
    assert main(["run", str(finished_run), "--quiet", "--force"]) == 0
    shown = capsys.readouterr().out
    run_dir = RunDir(load_config(finished_run).folder)
    scores = json.loads(run_dir.scores.read_text())
    names = ["held-out", "sts:similar", "graded:graded", "mteb:STSBenchmark"]
    assert list(scores["base"]) == list(scores["trained"]) == list(scores["difference"]) == names
    model = load_model(run_dir.model)
    rows = [json.loads(line) for line in finished_run.with_name("similar.jsonl").read_text().splitlines()]
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


def test_half_precision_is_kept_apart(finished_run: Path) -> None:
    """Vectors in half precision are nearly, but not quite, the others; they must not stand for them."""
    run_dir = RunDir(load_config(finished_run).folder)
    before = run_dir.vectors.read_bytes()
    assert json.loads(run_dir.scores.read_text())["precision"] == "fp32"
    half = ["--set", "evaluation.precision=bf16"]
    assert main(["evaluate", str(finished_run), "--quiet", "--force", *half]) == 0
    assert run_dir.vectors.read_bytes() != before and b"bf16" in run_dir.vectors.read_bytes()[:200]
    assert b"bf16" in run_dir.base_vectors.read_bytes()[:200]
    assert json.loads(run_dir.scores.read_text())["precision"] == "bf16"
    assert main(["export", str(finished_run), "--quiet", *half]) == 0
    after = run_dir.vectors.read_bytes()
    assert main(["search", str(run_dir.folder), "where is the cat"]) == 0
    assert run_dir.vectors.read_bytes() == after  # a search has the vectors that were measured, and keeps no query


def test_three_retrievers_are_measured_kept_and_searched_by(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(finished_run), "--quiet"]) == 0
    shown = capsys.readouterr().out
    run_dir = RunDir(load_config(finished_run).folder)
    scores = json.loads(run_dir.scores.read_text())
    held_out = scores["trained"]["held-out"]
    metrics = ["nDCG@10", "MRR@10", "Recall@100"]
    assert list(held_out) == [*metrics, *(f"{m} bm25" for m in metrics), *(f"{m} hybrid" for m in metrics)]
    assert scores["difference"]["held-out"]["nDCG@10 bm25"] == [0, 0, 0]
    assert scores["retrieval"]["trained"]["weight"] == 0.3 and scores["retrieval"]["trained"]["queries"] == 0
    rows = re.findall(r"^held-out \(nDCG@10\) +(\w+) +([\d.]+) +([\d.]+) +([\d.]+)$", shown, re.MULTILINE)
    assert [row[0] for row in rows] == ["base", "trained"] and rows[0][2] == rows[1][2]
    assert float(rows[1][3]) == pytest.approx(held_out["nDCG@10 hybrid"], abs=6e-4)
    assert f"| held-out (nDCG@10) | trained | {' | '.join(rows[1][1:])} |" in (run_dir.model / "README.md").read_text()
    assert "bm25" not in (run_dir.model / "README.md").read_text().partition("\n---\n")[0]
    (index,) = run_dir.bm25.iterdir()  # what is held out is searched in the whole corpus, as a search does
    made = index.stat().st_mtime_ns
    found = {}
    for retriever in (None, "dense", "bm25", "hybrid"):
        found[retriever] = verbs.search(run_dir.folder, "where is the cat letter", 3, retriever)
    assert found[None] == found["hybrid"] != found["dense"]
    assert all("letter" in document.text or "cat" in document.text for _, document in found["bm25"])
    cosines, words = (
        {document.id: score for score, document in verbs.search(run_dir.folder, "where is the cat letter", 40, name)}
        for name in ("dense", "bm25")
    )
    for score, document in found["hybrid"]:
        share = words.get(document.id, 0) / max(words.values())
        assert score == pytest.approx(cosines[document.id] + 0.3 * share, abs=1e-6)
    assert index.stat().st_mtime_ns == made
    capsys.readouterr()
    assert main(["search", str(run_dir.folder), "a cat", "--retriever", "bm25"]) == 0
    assert "by bm25, as asked for" in capsys.readouterr().err


def test_a_model_that_is_measured_alone(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(load_config(finished_run).folder)
    shutil.rmtree(run_dir.bm25)
    dense = ["--set", "evaluation.retrievers=['dense']"]
    assert main(["run", str(finished_run), "--quiet", "--force", *dense]) == 0
    scores = json.loads(run_dir.scores.read_text())
    assert list(scores["base"]["held-out"]) == ["nDCG@10", "MRR@10", "Recall@100"] and not scores["retrieval"]
    assert not run_dir.bm25.exists() and "hybrid" not in capsys.readouterr().out
    assert verbs.search(run_dir.folder, "a cat", 3) == verbs.search(run_dir.folder, "a cat", 3, "dense")
    with run_dir.lock():  # a run is at work: nothing is written beside it
        assert len(verbs.search(run_dir.folder, "the cat", 3, "bm25")) == 3
        assert not run_dir.bm25.exists()
    verbs.search(run_dir.folder, "the cat", 3, "hybrid")
    (index,) = run_dir.bm25.iterdir()
    with run_dir.lock():  # what is there is taken all the same
        monkeypatch.setattr("multigrain.retrieval.kept_bm25._make", None)
        assert len(verbs.search(run_dir.folder, "the cat", 3, "bm25")) == 3
    assert [index] == list(run_dir.bm25.iterdir())


def test_dev_pairs_choose_and_are_not_trained_on(
    run_toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multigrain.data.held_out.FEWEST_DEV", 2)
    monkeypatch.setattr("multigrain.evaluation.retriever_choice.FEWEST", 2)
    assert main(["run", str(run_toml), "--quiet", "--set", "data.dev_share=0.2", "--set", "synthesis.limit=0"]) == 0
    shown = capsys.readouterr().out
    run_dir = RunDir(load_config(run_toml).folder)
    dev = list(read_pairs(run_dir.dev_pairs))
    trained = {pair.query for pair in read_pairs(run_dir.train_pairs)}
    held_out = {pair.query for pair in read_pairs(run_dir.held_out_pairs)}
    assert 2 <= len(dev) <= 6 and not {pair.query for pair in dev} & (trained | held_out)
    assert not {graded.query for graded in read_tuples(run_dir.tuples)} & {pair.query for pair in dev}
    choice = json.loads(run_dir.scores.read_text())["retrieval"]["trained"]
    assert choice["queries"] == len(dev) and set(choice["scores"]) == {"dense", "bm25", "hybrid", "rrf"}
    assert choice["best"] == max(("hybrid", "dense", "bm25"), key=choice["scores"].__getitem__)
    assert f", the best on {len(dev)} dev queries (nDCG@10: dense " in shown


def test_an_index_of_a_corpus_that_is_gone_goes_too(finished_run: Path) -> None:
    run_dir = RunDir(load_config(finished_run).folder)
    (index,) = run_dir.bm25.iterdir()
    assert (
        main(["evaluate", str(finished_run), "--quiet", "--force", "--set", "mining.language=german"]) == 2
    )  # data differ
    (run_dir.bm25 / "0123456789abcdef").mkdir()
    assert main(["evaluate", str(finished_run), "--quiet", "--force"]) == 0
    assert list(run_dir.bm25.iterdir()) == [index]
