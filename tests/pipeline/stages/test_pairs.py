"""Runs whose pairs are written too: through the pipeline, with the scripted language model and a judge of words."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from multigrain.cli.main import main
from multigrain.config import Config, load_config
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_documents, read_pairs, read_tuples
from multigrain.data.mined_candidates import read_mined
from multigrain.data.split_data import prepare
from multigrain.errors import ConfigError, DataError, LLMReplyError
from multigrain.llm.clients.scripted import ScriptedClient
from multigrain.llm.protocol import Answer, Request
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline import stage_table, verbs
from multigrain.pipeline.reuse import take_over_stage
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import pairs as stage
from multigrain.records import folded
from tests.conftest import WORDS


def embed(texts: Sequence[str], role: Role) -> Vectors:
    """Cosine = the share of words that two texts have in common."""
    vectors = np.full((len(texts), 1024), 1e-3, dtype=np.float32)
    for row, text in enumerate(texts):
        for word in folded(text).split():
            vectors[row, crc32(word.encode()) % 1024] += 1
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def passages(count: int) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.sample(WORDS, 16)) for _ in range(count)]


@pytest.fixture(autouse=True)
def _judge_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pairs", "synthesize", "grade"):
        monkeypatch.setattr(f"multigrain.pipeline.stages.{name}.judge_encoder", lambda *_: embed)


MODES = {
    "corpus": ('corpus = "corpus.jsonl"', 'mode = "corpus"'),
    "tasks": ("", 'mode = "tasks"\ndomains = ["cooking", "law"]\ntasks = 7\npairs_per_task = 4'),
}


@pytest.fixture
def write_run(tmp_path: Path, tiny_encoder: Path) -> Callable[..., Path]:
    def write(mode: str, texts: list[str] | None = None) -> Path:
        lines = [{"id": f"d{place}", "text": text} for place, text in enumerate(texts or passages(40))]
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        data, synthesis = MODES[mode]
        path = tmp_path / f"{mode}.toml"
        path.write_text(
            f"""
name = "{mode}"
output = "{tmp_path / "runs"}"
[data]
{data}
held_out = 0.25
[llm]
provider = "scripted"
[synthesis]
{synthesis}
prompt_style = "per-grade"
[grading]
judge = "embedding"
judge_model = "{tiny_encoder}"
bands = [0.1, 0.3, 0.5]
round_trip = 5
[model]
base = "{tiny_encoder}"
[training]
batch_size = 4
"""
        )
        return path

    return write


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    """What must be the same however the run came about."""
    found = {f"data/{path.name}": path.read_bytes() for path in (folder / "data").iterdir()}
    names = ("synthesis/candidates.jsonl", "synthesis/parked.jsonl", "grading/tuples.jsonl", "grading/dropped.jsonl")
    return found | {name: (folder / name).read_bytes() for name in names}


def made(path: Path, *overrides: str, force: bool = False) -> tuple[Config, RunDir]:
    config = load_config(path, overrides)
    verbs.synthesize(config, force=force)
    verbs.grade(config, force=force)
    return config, RunDir(config.folder)


def test_a_corpus_becomes_tuples_and_what_is_held_out_stays_out(write_run: Callable[..., Path]) -> None:
    _, run_dir = made(write_run("corpus"), "grading.repairs=0")
    drawn = list(read_documents(run_dir.passages))
    held_out = {folded(passage.text) for passage in drawn if passage.split == "held_out"}
    assert (len(drawn), len(held_out)) == (40, 10)
    train, test = list(read_pairs(run_dir.train_pairs)), list(read_pairs(run_dir.held_out_pairs))
    assert len(train) >= 15
    assert len(test) >= 4
    assert {folded(pair.positive) for pair in test} <= held_out
    assert not {folded(pair.positive) for pair in train} & held_out
    assert {folded(d.text) for d in read_documents(run_dir.corpus) if d.split == "held_out"} == held_out
    mined = Corpus(run_dir.corpus).texts(read_mined(run_dir.mined).document.tolist())
    assert len(mined) > 20
    assert not set(map(folded, mined)) & held_out
    graded = list(read_tuples(run_dir.tuples))
    assert len(graded) >= 10
    assert not {folded(negative.text) for each in graded for negative in each.negatives} & held_out
    assert {each.id for each in graded} <= {pair.id for pair in train}
    texts = {passage.id: passage.text for passage in drawn}
    assert all(texts[pair.id] == pair.positive for pair in train + test)


def test_what_is_held_out_is_so_whatever_the_ids_look_like(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """Ids are often addresses with a fragment."""
    path = write_run("corpus")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace('"id": "d', '"id": "page#d'))
    config = load_config(path)
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    held_out = {passage.text for passage in read_documents(run_dir.passages) if passage.split == "held_out"}
    assert held_out
    assert not {pair.positive for pair in read_pairs(run_dir.train_pairs)} & held_out
    assert {pair.positive for pair in read_pairs(run_dir.held_out_pairs)} <= held_out


def test_several_queries_of_a_passage_stay_on_its_side(write_run: Callable[..., Path]) -> None:
    config = load_config(write_run("corpus"), ["synthesis.queries_per_passage=3"])
    counts = verbs.synthesize(config)["counts"]
    run_dir = RunDir(config.folder)
    sides = [
        {pair.id.partition("#")[0] for pair in read_pairs(path)}
        for path in (run_dir.train_pairs, run_dir.held_out_pairs)
    ]
    assert not sides[0] & sides[1]
    assert sides[1] <= {passage.id for passage in read_documents(run_dir.passages) if passage.split == "held_out"}
    ids = [pair.id for pair in read_pairs(run_dir.train_pairs)]
    assert len(ids) == len(set(ids)) > len(sides[0])
    assert counts["pair_requests"] == 120


def test_fields_become_tuples_that_carry_their_task(write_run: Callable[..., Path], asked: list[Request]) -> None:
    _, run_dir = made(write_run("tasks"), "grading.repairs=0")
    tasks = objects(run_dir.search_tasks)
    assert len(tasks) == 7
    assert {task["field"] for task in tasks} == {"cooking", "law"}
    train, test = list(read_pairs(run_dir.train_pairs)), list(read_pairs(run_dir.held_out_pairs))
    known = {(task["task"], task["kind"], task["field"]) for task in tasks}
    assert {(pair.instruction, pair.task, pair.source) for pair in train + test} <= known
    assert test
    assert not {folded(pair.positive) for pair in train} & {folded(pair.positive) for pair in test}
    of_train = {pair.id: (pair.instruction, pair.task) for pair in train}
    graded = list(read_tuples(run_dir.tuples))
    assert len(graded) >= 10
    assert all((each.instruction, each.task) == of_train[each.id] for each in graded)
    held_out = {folded(pair.positive) for pair in test}
    assert not {folded(negative.text) for each in graded for negative in each.negatives} & held_out
    assert len({request.key for request in asked}) == len(asked)


def test_a_task_that_leaves_no_room_is_refused_before_pairs_are_asked_for(
    write_run: Callable[..., Path], asked: list[Request]
) -> None:
    """What was paid for stays: with more room, the run goes on with the same tasks."""
    path = write_run("tasks")
    with pytest.raises(ConfigError, match=r"model.max_tokens: found 8, but .* of a search task takes \d+ tokens"):
        made(path, "model.max_tokens=8")
    named = len(asked)
    assert 0 < named < 28  # the tasks, but none of their pairs
    verbs.synthesize(load_config(path), force=True)
    assert len({request.key for request in asked}) == len(asked) > named


@pytest.mark.parametrize("mode", MODES)
def test_another_run_takes_over_all_that_later_stages_read(
    mode: str, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_run(mode)
    _, donor = made(path)
    config, heir = load_config(path), RunDir(tmp_path / "heir")
    for prepared in stage_table.STAGES[:2]:
        take_over_stage(prepared.name, prepared.writes(config, heir), donor, heir)
    for name in ("train_pairs", "held_out_pairs", "corpus"):
        assert getattr(heir, name).read_text() == getattr(donor, name).read_text()


@pytest.mark.parametrize("mode", MODES)
def test_the_counts_add_up(mode: str, write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some queries are no use, and some are not written at all."""
    answer = ScriptedClient.complete

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        lot = crc32(request.prompt.encode()) % 6
        if request.version.startswith("queries") and lot < 2:
            return Answer(["What does this text say about it?", " "][lot], 1, 1)
        if request.version.startswith("invent pair") and lot < 2:
            return Answer([json.dumps({"query": "What is in the article?", "positive": "It is."}), "no"][lot], 1, 1)
        return await answer(self, request)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    config = load_config(write_run(mode), ["synthesis.max_parked=1"])
    counts = verbs.synthesize(config)["counts"]
    run_dir = RunDir(config.folder)
    report = json.loads(run_dir.query_report.read_text())
    dropped = objects(run_dir.dropped_queries)
    assert report["written"] == report["kept"] + sum(report["dropped"].values())
    assert Counter(record["rule"] for record in dropped) == report["dropped"]
    assert report["dropped"]["speaks of the text"] > 0
    assert counts["pairs_parked"] == len(objects(run_dir.parked_pairs)) > 0
    asked = 40 if mode == "corpus" else 28
    assert report["written"] == asked - len(objects(run_dir.parked_pairs))
    assert report["kept"] == counts["train_pairs"] + counts["held_out_pairs"]
    kept = {pair.id for path in (run_dir.train_pairs, run_dir.held_out_pairs) for pair in read_pairs(path)}
    assert not kept & {record["id"] for record in dropped}


# Interrupted, and done again


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("mode", MODES)
def test_interrupted_anywhere_it_goes_on_to_the_same_files(
    mode: str, write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Request]
) -> None:
    path = write_run(mode)
    _, undisturbed = made(path)
    expected, once = files_of(undisturbed.folder), len(asked)
    other = load_config(path, [f"output={tmp_path / 'other'}"])
    asked.clear()

    def power_cut(*_: object, **__: object) -> None:
        raise PowerCutError

    moments = ["filter_queries", "split_written", "fit", "write_json"]
    moments += ["Corpus"] if mode == "corpus" else ["write_objects", "keep"]
    answer = ScriptedClient.complete
    for calls in (5, 15):

        async def some(self: ScriptedClient, request: Request, calls: int = calls) -> Answer:
            if len(asked) >= calls:
                raise PowerCutError
            return await answer(self, request)

        with monkeypatch.context() as patch:
            patch.setattr(ScriptedClient, "complete", some)
            with pytest.raises(PowerCutError):
                verbs.synthesize(other)
        assert "pairs" not in RunDir(other.folder).stages()
    for moment in moments:
        with monkeypatch.context() as patch:
            patch.setattr(stage, moment, power_cut)
            with pytest.raises(PowerCutError):
                verbs.synthesize(other)
    made(path, f"output={tmp_path / 'other'}")
    assert files_of(other.folder) == expected
    assert len(asked) == once  # and nothing was asked twice


@pytest.mark.parametrize("mode", MODES)
def test_force_makes_the_same_files_and_asks_nobody(
    mode: str, write_run: Callable[..., Path], asked: list[Request]
) -> None:
    path = write_run(mode)
    _, run_dir = made(path)
    expected = files_of(run_dir.folder)
    asked.clear()
    made(path, force=True)
    assert files_of(run_dir.folder) == expected
    assert asked == []


def test_a_changed_filter_writes_other_pairs_without_asking_for_them_again(
    write_run: Callable[..., Path], asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(texts: Sequence[str], role: Role) -> Vectors:
        """Knows two words of a query, so that its passage is not always the first that it finds."""
        return embed([" ".join(text.split()[:2]) for text in texts] if role == "query" else texts, role)

    monkeypatch.setattr(stage, "judge_encoder", lambda *_: forgetful)
    path = write_run("corpus")
    _, run_dir = made(path)
    before = list(read_pairs(run_dir.train_pairs))
    asked.clear()
    made(path, "grading.round_trip=1", force=True)
    assert len(list(read_pairs(run_dir.train_pairs))) < len(before)
    assert not [request for request in asked if request.version.startswith("queries")]


# Strange corpora


def test_one_passage_is_too_few_to_train_on(write_run: Callable[..., Path]) -> None:
    config = load_config(write_run("corpus", passages(1)))
    with pytest.raises(DataError, match=r"held-out|found 1 pair to train on; a batch needs at least 2"):
        verbs.synthesize(config)
    assert "pairs" not in RunDir(config.folder).stages()


def test_a_passage_that_comes_twice_is_asked_about_once(write_run: Callable[..., Path], asked: list[Request]) -> None:
    texts = passages(20)
    again = [text.upper().replace(" ", "  ") for text in texts]
    config = load_config(write_run("corpus", texts + again + texts))
    counts = verbs.synthesize(config)["counts"]
    assert counts["passages"] == counts["documents"] == counts["pair_requests"] == 20
    assert len([request for request in asked if request.version.startswith("queries")]) == 20


def test_a_giant_passage_is_cut_for_the_model_and_kept_whole(
    write_run: Callable[..., Path], asked: list[Request]
) -> None:
    giant = " ".join(["copper", *passages(1)[0].split() * 12_000])
    assert len(giant) > 2**20
    _, run_dir = made(write_run("corpus", [giant, *passages(20)[1:]]), "data.held_out=0.05")
    assert giant in {passage.text for passage in read_documents(run_dir.passages)}
    assert len(asked) > 40
    assert max(len(request.prompt) for request in asked) < 4000


def test_only_short_passages_are_told_before_anybody_is_asked(
    write_run: Callable[..., Path], asked: list[Request]
) -> None:
    config = load_config(write_run("corpus", ["the cat sleeps", "a dog", "one bird sings"]))
    with pytest.raises(DataError, match=r"corpus\.jsonl: none of its 3 passages has 8 words"):
        verbs.synthesize(config)
    assert asked == []


def test_short_passages_get_no_queries_and_stay_in_the_corpus(write_run: Callable[..., Path]) -> None:
    config = load_config(write_run("corpus", [*passages(20), "the cat sleeps"]))
    counts = verbs.synthesize(config)["counts"]
    assert (counts["passages"], counts["documents"]) == (20, 21)


def test_a_model_that_names_no_task_is_told(write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async def complete(self: ScriptedClient, request: Request) -> Answer:
        return Answer('{"tasks": []}', 1, 1)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    config = load_config(write_run("tasks"))
    with pytest.raises(LLMReplyError, match="none of the .* inputs has a usable answer"):
        verbs.synthesize(config)
    assert "pairs" not in RunDir(config.folder).stages()


# Settings that do not go together


@pytest.mark.parametrize(
    ("mode", "setting", "fault"),
    [
        ("tasks", 'synthesis.mode="corpus"', "data.corpus: missing"),
        ("corpus", 'synthesis.mode="negatives"', "data.pairs: missing"),
        (
            "corpus",
            "data.pairs=corpus.jsonl",
            'data.pairs: synthesis.mode = "corpus" writes the pairs; remove it',
        ),
        ("tasks", "data.pairs=corpus.jsonl", 'data.pairs: synthesis.mode = "tasks" writes the pairs; remove it'),
        ("tasks", "data.corpus=corpus.jsonl", 'data.corpus: synthesis.mode = "tasks" writes all texts'),
        ("tasks", "synthesis.domains=[]", "synthesis.domains: missing"),
        ("corpus", 'data.held_out=["a"]', 'data.held_out: found sources; synthesis.mode = "corpus" needs a share'),
        ("tasks", 'data.held_out=["a"]', 'data.held_out: found sources; synthesis.mode = "tasks" needs a share'),
        ("corpus", "synthesis.limit=0", 'synthesis.limit: found 0; synthesis.mode = "corpus" needs the language model'),
        ("corpus", "synthesis.query_types=[]", "synthesis.query_types: found []"),
        ("corpus", 'synthesis.query_types=["riddle"]', "synthesis.query_types"),
        ("corpus", "data.corpus=missing.jsonl", "missing.jsonl"),
        ("corpus", "data.held_out=0", 'evaluation.tasks: "held-out" needs data.held_out above 0'),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    mode: str, setting: str, fault: str, write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(mode)
    assert main(["synthesize", str(path), "--set", setting]) == 2
    err = capsys.readouterr().err
    assert fault in err
    assert "Traceback" not in err


def test_what_a_run_has_written_is_a_source_beside_given_pairs(write_run: Callable[..., Path], tmp_path: Path) -> None:
    config = load_config(write_run("corpus"))
    verbs.synthesize(config)
    written = RunDir(config.folder)
    (tmp_path / "given.jsonl").write_text(
        "".join(json.dumps({"query": f"what is {n}", "positive": f"it is the {n}"}) + "\n" for n in range(20))
    )
    sources = [
        {"name": "written", "pairs": str(written.train_pairs), "corpus": str(written.corpus)},
        {"name": "given", "pairs": str(tmp_path / "given.jsonl")},
    ]
    split = prepare(Config.model_validate({"name": "both", "data": {"sources": sources, "held_out": 0.0}}))
    ids = [f"written/{pair.id}" for pair in read_pairs(written.train_pairs)]
    assert [pair.id for pair in split.train if pair.source == "written"] == ids
    documents = Counter(name for document in split.documents for name in document.sources or [])
    assert documents == {"written": len(Corpus(written.corpus)), "given": 20}
