"""Several sources through the pipeline: what is mined, trained on, and measured of each."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_candidates, read_documents, read_pairs, read_tuples
from multigrain.data.mined_candidates import Mined, read_mined
from multigrain.pipeline import verbs
from multigrain.pipeline.check import check
from multigrain.pipeline.retrievers import dev_searches
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import train
from multigrain.retrieval import mine
from tests.conftest import as_lines
from tests.pipeline.stages.several_sources import NAMES, rows_of, write_sources

MINED_ALONE = ["synthesis.limit=0", "grading.repairs=0"]


def mined_texts(run_dir: RunDir) -> list[tuple[str, str, int, float]]:
    """Each mined candidate: the pair's id, the text, the grade, and the score."""
    mined: Mined = read_mined(run_dir.mined)
    ids = [pair.id for pair in read_pairs(run_dir.train_pairs)]
    texts = [document.text for document in read_documents(run_dir.corpus)]
    scores = mined.scores["embedding"].round(5).tolist()
    rows = zip(mined.pair.tolist(), mined.document.tolist(), mined.grade.tolist(), scores, strict=True)
    return [(ids[pair], texts[document], grade, score) for pair, document, grade, score in rows]


def test_each_source_is_mined_as_if_it_were_alone(run_toml: Path) -> None:
    alone = []
    single = run_toml.read_text()
    for name in NAMES:
        run_toml.with_name("pairs.jsonl").write_text(as_lines(rows_of(name, prefix=f"{name}/")))
        config = load_config(run_toml, [*MINED_ALONE, f"name={name}"])
        verbs.synthesize(config)
        alone += mined_texts(RunDir(config.folder))
    run_toml.write_text(single)
    together = load_config(write_sources(run_toml), MINED_ALONE)
    verbs.synthesize(together)
    assert mined_texts(RunDir(together.folder)) == alone
    assert {id.partition("/")[0] for id, *_ in alone} == set(NAMES)


def test_negatives_come_from_the_source_of_the_pair_and_tuples_name_it(run_toml: Path) -> None:
    config = load_config(write_sources(run_toml), MINED_ALONE)
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    sources = {document.text: document.sources for document in read_documents(run_dir.corpus)}
    tuples = list(read_tuples(run_dir.tuples))
    assert {graded.source for graded in tuples} == set(NAMES)
    for graded in tuples:
        assert graded.id.startswith(f"{graded.source}/")
        assert all(graded.source in (sources[negative.text] or []) for negative in graded.negatives)


def test_mining_goes_on_after_the_last_whole_wave(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mine, "WAVE", 8)
    config = load_config(write_sources(run_toml), MINED_ALONE)
    verbs.synthesize(config)
    whole = mined_texts(RunDir(config.folder))
    again = load_config(run_toml, [*MINED_ALONE, "name=again"])
    calls = Counter[str]()
    begin = mine.mine_candidates

    def stopped(*args: Any, **more: Any) -> Iterator[Mined]:
        for mined in begin(*args, **more):
            calls["waves"] += 1
            if calls["waves"] == 7:  # the second wave of the second source
                raise KeyboardInterrupt
            yield mined

    monkeypatch.setattr(mine, "mine_candidates", stopped)
    with pytest.raises(KeyboardInterrupt):
        verbs.synthesize(again)
    monkeypatch.setattr(mine, "mine_candidates", begin)
    assert len(list(RunDir(again.folder).mined_parts.glob("*.parquet"))) == 6
    verbs.synthesize(again)
    assert mined_texts(RunDir(again.folder)) == whole


def test_scores_by_source_are_those_of_a_run_with_this_source(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base is the same in all runs, so its scores must be too; in total they are the mean over all queries."""
    quick = ["synthesis.limit=0", "grading.repairs=0"]
    single, expected, counts = run_toml.read_text(), {}, []
    for name in NAMES:
        run_toml.with_name("pairs.jsonl").write_text(as_lines(rows_of(name)))
        found = verbs.run(load_config(run_toml, [*quick, f"name={name}"]))
        expected[f"held-out {name}"] = found["base"]["held-out"]
        counts.append(found["items"]["held-out"])
    run_toml.write_text(single)
    capsys.readouterr()
    assert main(["run", str(write_sources(run_toml)), "--set", quick[0], "--set", quick[1]]) == 0
    shown = capsys.readouterr().out
    config = load_config(run_toml, quick)
    summary = json.loads(RunDir(config.folder).summary.read_text())
    by_source = summary["by_source"]
    assert by_source["base"] == expected
    assert list(by_source["items"].values()) == counts
    for metric, value in summary["base"]["held-out"].items():
        parts = [scores[metric] * count for scores, count in zip(expected.values(), counts, strict=True)]
        assert value == pytest.approx(sum(parts) / sum(counts))
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("held-out even ")] == ["even"]
    examples = json.loads(RunDir(config.folder).examples.read_text())
    for example in examples:
        name = example["relevant"][0].partition("/")[0]
        assert {document["id"].partition("/")[0] for document in example["before"]} == {name}


def test_dev_queries_and_samples_for_training_search_their_own_source(
    run_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multigrain.data.held_out.FEWEST_DEV", 2)
    monkeypatch.setattr(train, "MOST_DOCUMENTS", 30)
    config = load_config(write_sources(run_toml), [*MINED_ALONE, "data.dev_share=0.2"])
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    corpus = Corpus(run_dir.corpus)
    searches = dev_searches(config, run_dir)
    assert sum(len(search.task.queries) for search in searches) == len(list(read_pairs(run_dir.dev_pairs))) > 4
    for name, search in zip(NAMES, searches, strict=True):
        documents = list(search.task.documents)
        assert {document.id.partition("/")[0] for document in documents} == {name} and len(documents) == 40
        assert list(corpus.documents(search.numbers.tolist())) == documents
    for name, task in zip(NAMES, train._sampled_tasks(config, run_dir), strict=True):
        documents = list(task.documents)
        assert {document.id.partition("/")[0] for document in documents} == {name} and len(documents) == 15
        assert len(task.queries) == 10


def test_the_report_counts_each_source(run_toml: Path) -> None:
    config = load_config(write_sources(run_toml), MINED_ALONE)
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    report = json.loads(run_dir.report.read_text())
    found = report["by_data_source"]
    tuples = list(read_tuples(run_dir.tuples))
    assert {name: counts["tuples"] for name, counts in found.items()} == Counter(graded.source for graded in tuples)
    for name in NAMES:
        of_source = [graded for graded in tuples if graded.source == name]
        assert found[name]["negatives"] == sum(len(graded.negatives) for graded in of_source)
        assert found[name]["pairs"] == 30
    dropped = sum((Counter(counts["dropped"]) for counts in found.values()), Counter[str]())
    assert dropped == Counter(report["dropped"])


def test_nothing_is_written_mined_or_graded_for_a_source_of_weight_0(run_toml: Path) -> None:
    config = load_config(write_sources(run_toml, "weight = 1.0", "weight = 0.0"))
    run_dir = RunDir(config.folder)
    verbs.synthesize(config)
    written = [candidate.pair_id for candidate in read_candidates(run_dir.candidates)]
    mined = [id for id, *_ in mined_texts(run_dir)]
    verbs.grade(config)
    graded = [graded.id for graded in read_tuples(run_dir.tuples)]
    for ids in (written, mined, graded):
        assert {id.partition("/")[0] for id in ids} == {"even"}
    assert {pair.source for pair in read_pairs(run_dir.held_out_pairs)} == set(NAMES)
    assert "odd: not trained on (weight 0); 10 held out, 40 documents" in check(config)


def test_check_tells_of_each_source(run_toml: Path) -> None:
    config = load_config(write_sources(run_toml, "weight = 3.0", "weight = 1.0\nlimit = 10"))
    lines = [line.strip() for line in check(config).splitlines()]
    assert "even: 30 training pairs, 10 held out, 40 documents; weight 3, 75.0% of the steps (about 6)" in lines
    assert "odd: 10 training pairs, 10 held out, 20 documents; weight 1, 25.0% of the steps (about 2)" in lines
    run_toml.write_text(run_toml.read_text().replace("limit = 10", "limit = 2"))
    told = check(load_config(run_toml, ["training.batch_size=10"]))
    assert "weight 1, 20.0% of the steps (about 2) in place of 25.0%: no pair is twice in a batch of 10" in told
