"""The stage through the pipeline, with the scripted language model and the tiny encoder."""

import json
import random
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multigrain.config import Config, load_config
from multigrain.data.jsonl import read_candidates, read_tuples, write_records
from multigrain.data.mined_candidates import NO_RANK, Mined, mined_writer
from multigrain.errors import DataError
from multigrain.files import count_lines
from multigrain.llm.clients.scripted import ScriptedClient
from multigrain.llm.protocol import Answer, Request
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import grade as stage
from multigrain.pipeline.stages import synthesize as mining_stage
from multigrain.records import Candidate, Document, Pair
from tests.conftest import WORDS

FILES = ("tuples.jsonl", "dropped.jsonl", "dropped.parquet", "report.json")
STYLE = "synthesis.prompt_style='per-grade'"


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "grading" / name).read_bytes() for name in FILES}


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kind(request: Request) -> str:
    """What the request asks for: `judge`, or a grade."""
    return request.version.split()[-1].partition("@")[0]


def synthesized(run_toml: Path, *overrides: str) -> Config:
    config = load_config(run_toml, [STYLE, *overrides])
    verbs.synthesize(config)
    return config


def without_written(config: Config, *grades: int) -> None:
    """Take what was written at these grades out again, and all that was mined."""
    path = RunDir(config.folder).candidates
    left = [c for c in read_candidates(path) if c.source == "llm" and c.grade not in grades]
    write_records(path, left)


def test_repairs_ask_for_what_is_missing_and_no_more_often_than_allowed(run_toml: Path, asked: list[Request]) -> None:
    config = synthesized(run_toml, "mining.enabled=false", "grading.repairs=3")
    without_written(config, 1, 3)
    asked.clear()
    verbs.grade(config)
    folder = RunDir(config.folder)
    counts = Counter(request.seed for request in asked)
    assert sorted(counts) == [config.seed + attempt for attempt in (1, 2, 3)]
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    # The first time exactly what one pass without repairs leaves empty.
    manifest = folder.stages()["grade"]
    assert manifest.counts["repairs"] == len(asked)
    assert "verdicts" not in manifest.counts
    with_repairs = {graded.id: {n.grade for n in graded.negatives} for graded in read_tuples(folder.tuples)}
    unrepaired = load_config(run_toml, [STYLE, "mining.enabled=false", "grading.repairs=0"])
    verbs.grade(unrepaired, force=True)
    without = {graded.id: {n.grade for n in graded.negatives} for graded in read_tuples(folder.tuples)}
    first = sum(request.seed == config.seed + 1 for request in asked)
    assert first == sum(4 - len(without.get(pair["id"], ())) for pair in objects(folder.train_pairs))
    assert sum(map(len, with_repairs.values())) > sum(map(len, without.values()))
    assert folder.stages()["grade"].counts.keys() == {"tuples", "negatives", "dropped"}


def test_nothing_is_asked_where_nobody_writes(run_toml: Path, asked: list[Request]) -> None:
    config = synthesized(run_toml, "synthesis.limit=0")
    verbs.grade(config)
    assert asked == []


def test_only_pairs_that_are_written_for_are_repaired(run_toml: Path, asked: list[Request]) -> None:
    config = synthesized(run_toml, "synthesis.limit=3", "mining.enabled=false", "grading.repairs=1")
    without_written(config, 1, 2, 3, 4)
    asked.clear()
    verbs.grade(config)
    assert len({request.prompt for request in asked}) == 3 * 4  # one may be asked again


def test_a_pair_whose_positive_is_irrelevant_is_not_repaired(
    run_toml: Path, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(texts: Sequence[str], role: Role) -> Vectors:
        """Queries point away from all else."""
        return np.array([[-1.0 if text.startswith("where is") else 1.0] for text in texts], dtype=np.float32)

    for module in (mining_stage, stage):
        monkeypatch.setattr(module, "judge_encoder", lambda *_: embed)
    config = synthesized(run_toml)
    asked.clear()
    verbs.grade(config)
    found = json.loads(RunDir(config.folder).report.read_text())
    assert "mined" not in found["by_source"]
    assert set(found["dropped"]) <= {
        "irrelevant positive",
        "synonym",
        "near duplicate",
        "too short",
        "copy of another candidate",
    }
    assert (found["tuples"], asked) == (0, [])


def test_stopped_after_the_repair_it_goes_on_to_the_same_files(
    run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Request]
) -> None:
    config = synthesized(run_toml, "grading.repairs=2")
    verbs.grade(config)
    expected = files_of(config.folder)
    other = synthesized(run_toml, "grading.repairs=2", f"output={tmp_path / 'other'}")
    asked.clear()

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("multigrain.grading.report.Report.result", power_cut)
        with pytest.raises(KeyboardInterrupt):
            verbs.grade(other)
    assert len(asked) > 0
    assert "grade" not in RunDir(other.folder).stages()
    asked.clear()
    verbs.grade(other)
    assert asked == []  # the answers are there
    assert files_of(other.folder) == expected


def test_blocks_change_nothing_but_memory(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = synthesized(run_toml, "grading.judge=['embedding', 'bm25']")
    verbs.grade(config)
    expected = files_of(config.folder)
    monkeypatch.setattr(stage, "BLOCK", 4)
    verbs.grade(config, force=True)
    assert files_of(config.folder) == expected
    order = [pair["id"] for pair in objects(RunDir(config.folder).train_pairs)]
    ids = [graded.id for graded in read_tuples(RunDir(config.folder).tuples)]
    assert ids == sorted(ids, key=order.index)


def test_a_cross_encoder_is_loaded_once_and_asked_about_each_pair_once(
    run_toml: Path, tiny_cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multigrain.model import load as loading

    judged: list[tuple[str, str]] = []
    loaded: list[str] = []
    load = loading.load_cross_encoder

    def load_and_note(name: str, *args: Any) -> Any:
        loaded.append(name)
        model = load(name, *args)
        predict = model.predict
        monkeypatch.setattr(model, "predict", lambda pairs: (judged.extend(pairs), predict(pairs))[1])  # type: ignore[func-returns-value]
        return model

    monkeypatch.setattr(loading, "load_cross_encoder", load_and_note)
    judge = ["grading.judge='cross-encoder'", f"grading.cross_encoder='{tiny_cross_encoder}'", "grading.repairs=2"]
    config = synthesized(run_toml, *judge)
    verbs.grade(config)
    report = json.loads(RunDir(config.folder).report.read_text())
    assert (report["judges"], loaded) == (["cross-encoder"], [str(tiny_cross_encoder)])
    assert report["tuples"] > 0
    assert len(judged) == len(set(judged))


# A language model that is asked whether texts answer

SUSPECT = "the thunder basket is an answer of its own"
HARMLESS = "copper lanterns and cotton ribbons were sold"


@pytest.fixture
def suspects(run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Each pair has a text that is off topic, one that answers, and one that only looks so to the encoder."""
    judge = ["grading.judge=['embedding', 'llm']", "grading.false_negative_above=0.95", "grading.repairs=0"]
    config = synthesized(run_toml, "mining.enabled=false", *judge)
    run_dir = RunDir(config.folder)
    cosines: dict[str, float] = {}
    candidates = []
    for pair in objects(run_dir.train_pairs):
        texts = {f"{place} {pair['id']} {words}": cosine for place, words, cosine in (
            ("island", HARMLESS, 0.1), ("market", SUSPECT, 0.93), ("harbor", f"{HARMLESS} again", 0.98))}  # fmt: skip
        cosines |= texts
        candidates += [Candidate(pair["id"], 4, text, "mined", "m") for text in texts]
    write_records(run_dir.candidates, candidates)
    pairs = {pair["query"] for pair in objects(run_dir.train_pairs)}

    def embed(texts: Sequence[str], role: Role) -> Vectors:
        cosine = np.array([1.0 if text in pairs else cosines.get(text, 1.0) for text in texts])
        return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1).astype(np.float32)

    monkeypatch.setattr(stage, "judge_encoder", lambda *_: embed)
    return config


def rated_by(rate: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    prompts = []

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        assert kind(request) == "judge"
        prompts.append(request.prompt)
        return Answer(f"Rating: {rate(request.prompt)}", 1, 1)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    return prompts


def test_a_language_model_that_is_right_has_the_last_word(
    suspects: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = rated_by(lambda prompt: 3 * (SUSPECT in prompt or "is near the" in prompt), monkeypatch)
    verbs.grade(suspects, force=True)
    run_dir = RunDir(suspects.folder)
    pairs = len(objects(run_dir.train_pairs))
    report = json.loads(run_dir.report.read_text())
    assert "its ratings are not used" not in capsys.readouterr().err
    assert report["dropped"] == {"answers the query": pairs}
    assert (report["tuples"], report["negatives"]) == (pairs, 2 * pairs)
    for graded in read_tuples(run_dir.tuples):
        assert [(n.grade, n.score) for n in graded.negatives] == [(1, 0.1), (4, 0.98)]
    # A positive, and an off-topic text, of each pair; then two suspects of each: nothing twice.
    assert len(prompts) == len(set(prompts)) == 4 * pairs
    assert run_dir.stages()["grade"].counts["verdicts"] == 4 * pairs


def test_a_language_model_that_guesses_is_not_believed(
    suspects: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = rated_by(lambda prompt: random.Random(prompt).randrange(4), monkeypatch)
    verbs.grade(suspects, force=True)
    run_dir = RunDir(suspects.folder)
    pairs = len(objects(run_dir.train_pairs))
    assert "accuracy of only 0." in (err := capsys.readouterr().err) and "its ratings are not used" in err
    assert json.loads(run_dir.report.read_text())["dropped"] == {"false negative": pairs}
    assert [len(graded.negatives) for graded in read_tuples(run_dir.tuples)] == [2] * pairs
    assert len(prompts) == 2 * pairs


def test_a_language_model_that_cannot_be_tried_is_not_asked(
    suspects: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(suspects.folder)
    left = [c for c in read_candidates(run_dir.candidates) if not c.text.startswith("island")]
    write_records(run_dir.candidates, left)
    prompts = rated_by(lambda prompt: 1 // 0, monkeypatch)
    verbs.grade(suspects, force=True)
    assert "wanted 10 off-topic texts, found 0; its ratings are not used" in capsys.readouterr().err
    assert prompts == []


def test_what_a_repair_brings_is_looked_at_too(suspects: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is as near as can be to the encoder, and the language model says that no repair answers."""
    config = suspects.model_copy(update={"grading": suspects.grading.model_copy(update={"repairs": 1})})
    answer = ScriptedClient.complete
    rated: list[str] = []

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        if kind(request) != "judge":
            return await answer(self, request)
        rated.append(request.prompt)
        return Answer(str(3 * (SUSPECT in request.prompt or "is near the" in request.prompt)), 1, 1)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    verbs.grade(config, force=True)
    run_dir = RunDir(config.folder)
    counts, pairs = run_dir.stages()["grade"].counts, len(objects(run_dir.train_pairs))
    assert counts["repairs"] == 2 * pairs  # grades 2 and 3
    assert len(rated) == len(set(rated)) == counts["verdicts"] > 4 * pairs
    assert "false negative" not in json.loads(run_dir.report.read_text())["dropped"]


# Memory


def peak_bytes(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch, run_toml: Path) -> int:
    """What the stage holds at most, for pairs with four mined candidates each, over what it began with."""
    run_dir = RunDir(folder / str(count))
    draw = random.Random(7)
    write_records(
        run_dir.train_pairs,
        (Pair(f"p{n}", f"query number {n}", f"positive text of number {n}") for n in range(count)),
    )
    write_records(
        run_dir.corpus, (Document(str(n), f"{draw.random()} {draw.random()} {draw.random()}") for n in range(4 * count))
    )
    write_records(run_dir.candidates, [])
    numbers, measured = np.arange(4 * count), np.random.default_rng(7).random(4 * count).astype(np.float32)
    mined = Mined(
        pair=(numbers // 4).astype(np.int32),
        document=numbers.astype(np.int32),
        grade=(numbers % 4 + 1).astype(np.int8),
        method=np.zeros(4 * count, dtype=np.int8),
        rank=np.full(4 * count, NO_RANK, dtype=np.int32),
        words=np.full(4 * count, 3, dtype=np.float32),
        scores={"embedding": measured},
        positives={"embedding": np.ones(4 * count, dtype=np.float32)},
    )
    with mined_writer(run_dir.mined) as writer:
        writer.write(mined)

    def embed(texts: Sequence[str], role: Role) -> Vectors:
        vectors = np.random.default_rng(len(texts)).normal(0.4, 1, size=(len(texts), 64)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

    monkeypatch.setattr(stage, "judge_encoder", lambda *_: embed)
    config = load_config(run_toml, [STYLE, "synthesis.limit=0", "grading.judge='embedding'"])
    tracemalloc.start()
    stage.grade(config, run_dir)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_hardly_grows_with_the_pairs(run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.grading.judges.MOST_KNOWN", 2000)
    monkeypatch.setattr("multigrain.grading.report.SAMPLED", 100)
    monkeypatch.setattr("multigrain.grading.near_copies.MOST_BYTES", 200_000)
    monkeypatch.setattr("multigrain.data.mined_candidates.ROWS", 16 * 200)
    monkeypatch.setattr("multigrain.data.dropped_candidates.ROWS", 500)
    monkeypatch.setattr("multigrain.grading.report.DIGITS", 2)
    few, many = (peak_bytes(tmp_path, count, monkeypatch, run_toml) for count in (500, 2500))
    assert many < 1.5 * few, (few, many)


def test_labels_of_a_word_or_two_are_negatives_of_each_other(run_toml: Path, write_jsonl: Callable[..., Path]) -> None:
    labels = [*WORDS[20:], *(f"{a} {b}" for a, b in zip(WORDS[20:30], WORDS[30:40], strict=True))]
    rows = [
        {"id": str(i), "query": f"what do you call the old {label} here", "positive": label, "negative": labels[i - 5]}
        for i, label in enumerate(labels)
    ]
    write_jsonl("pairs.jsonl", rows)
    config = load_config(run_toml, ["synthesis.limit=0"])
    verbs.synthesize(config)
    counts = verbs.grade(config)["counts"]
    folder = RunDir(config.folder)
    rules = Counter(fields["rule"] for fields in objects(folder.dropped))
    assert not rules.keys() & {"too short", "length"}
    assert counts["tuples"] > 0.9 * count_lines(folder.train_pairs)


def test_where_nothing_is_left_the_rules_are_named(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = synthesized(run_toml, "grading.bands=[0.001, 0.002, 0.003]", "grading.false_negative_above=0.004")
    verbs.grade(config)
    said = capsys.readouterr().err
    assert re.search(r'warning: pairs with negatives: 0; candidates dropped: \d+ for "false negative"', said)
    with pytest.raises(DataError, match=r'tuples.jsonl: pairs with negatives: 0; .* \d+ for "false negative"'):
        verbs.train(config)
