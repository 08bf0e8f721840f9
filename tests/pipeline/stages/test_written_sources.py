"""Sources whose pairs are written beside sources with given pairs, through the pipeline, with a judge of words."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from multigrain.config import Config, load_config
from multigrain.data.jsonl import read_documents, read_pairs, read_tuples
from multigrain.errors import ConfigError, DataError
from multigrain.llm.clients.scripted import ScriptedClient
from multigrain.llm.protocol import Answer, Request
from multigrain.pipeline import verbs
from multigrain.pipeline.check import check
from multigrain.pipeline.generation.open_requests import next_plan
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import pairs as stage
from multigrain.records import folded
from tests.conftest import as_lines, small_pairs
from tests.pipeline.stages.several_sources import objects
from tests.pipeline.stages.test_pairs import embed, passages

GIVEN = '[[data.sources]]\nname = "public"\npairs = "public.jsonl"\n'
WRITTEN = {
    "tasks": '[[data.sources]]\nname = "invented"\nmode = "tasks"\n',
    "corpus": '[[data.sources]]\nname = "manual"\nmode = "corpus"\ncorpus = "manual.jsonl"\n',
}


@pytest.fixture(autouse=True)
def _judge_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pairs", "synthesize", "grade"):
        monkeypatch.setattr(f"multigrain.pipeline.stages.{name}.judge_encoder", lambda *_: embed)


@pytest.fixture
def write_run(tmp_path: Path, tiny_encoder: Path) -> Callable[..., Path]:
    """Write a run with these tables of sources."""

    def write(*tables: str) -> Path:
        (tmp_path / "public.jsonl").write_text(as_lines(small_pairs()))
        lines = [{"id": f"d{place}", "title": f"part {place}", "text": text} for place, text in enumerate(passages(40))]
        (tmp_path / "manual.jsonl").write_text(as_lines(lines))
        path = tmp_path / "run.toml"
        path.write_text(
            f"""
name = "mixed"
output = "{tmp_path / "runs"}"
evaluation.precision = "fp32"
baseline.against = "none"
[data]
held_out = 0.25
{"".join(tables)}
[llm]
provider = "scripted"
[synthesis]
domains = ["cooking", "law"]
tasks = 7
pairs_per_task = 4
prompt_style = "per-grade"
[grading]
judge = "embedding"
judge_model = "{tiny_encoder}"
bands = [0.1, 0.3, 0.5]
round_trip = 5
repairs = 0
[model]
base = "{tiny_encoder}"
[training]
batch_size = 4
steps = 8
"""
        )
        return path

    return write


def test_given_and_invented_pairs_make_one_model(write_run: Callable[..., Path], asked: list[Request]) -> None:
    config = load_config(write_run(GIVEN, WRITTEN["tasks"]))
    summary = verbs.run(config)
    run_dir = RunDir(config.folder)
    train, test = list(read_pairs(run_dir.train_pairs)), list(read_pairs(run_dir.held_out_pairs))
    written = objects(run_dir.source("invented").pairs)
    counts = Counter(pair.source for pair in [*train, *test])
    assert counts == {"public": 40, "invented": len(written)}
    tasks = {task["task"] for task in objects(run_dir.source("invented").search_tasks)}
    assert len(tasks) == 7
    assert {pair.instruction for pair in train if pair.source == "invented"} <= tasks
    assert {pair.instruction for pair in train if pair.source == "public"} == {None}
    assert {pair.source for pair in test} == {"public", "invented"}
    assert {each.source for each in read_tuples(run_dir.tuples)} == {"public", "invented"}
    assert (run_dir.model / "modules.json").is_file()
    assert any("invented" in task for task in summary["by_source"]["trained"])
    assert len({request.key for request in asked}) == len(asked)


def test_queries_for_passages_stand_beside_given_pairs(write_run: Callable[..., Path], tmp_path: Path) -> None:
    config = load_config(write_run(GIVEN, WRITTEN["corpus"]))
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    manual = {f"manual/d{place}": f"part {place} {text}" for place, text in enumerate(passages(40))}
    pairs = [pair for path in run_dir.pair_files() for pair in read_pairs(path) if pair.source == "manual"]
    assert len(pairs) >= 20
    assert {pair.id: pair.positive for pair in pairs} == {pair.id: manual[pair.id] for pair in pairs}
    documents = list(read_documents(run_dir.corpus))
    assert {document.id: document.text for document in documents if document.sources == ["manual"]} == manual
    held_out = {folded(pair.positive) for pair in read_pairs(run_dir.held_out_pairs)}
    assert len({pair.source for pair in read_pairs(run_dir.held_out_pairs)}) == 2
    texts = {folded(document.text): document.sources for document in documents}
    mined = [
        (graded.source, folded(negative.text))
        for graded in read_tuples(run_dir.tuples)
        for negative in graded.negatives
        if negative.source == "mined"
    ]
    assert {source for source, _ in mined} == {"public", "manual"}
    assert all(texts[text] == [source] and text not in held_out for source, text in mined)


def test_a_dropped_query_still_names_its_answer(
    write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two passages get the same query, only one pair is kept, and the other passage is no negative of it."""
    answer = ScriptedClient.complete

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        alike = request.version.startswith("queries") and ("part 3 " in request.prompt or "part 5 " in request.prompt)
        return Answer("red green blue cat dog", 1, 1) if alike else await answer(self, request)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    lenient = ["grading.round_trip=50", "grading.most_answers=50", 'data.held_out=["public"]']
    config = load_config(write_run(GIVEN, WRITTEN["corpus"]), lenient)
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    alike = [
        pair for path in run_dir.pair_files() for pair in read_pairs(path) if pair.query == "Red green blue cat dog"
    ]
    assert sorted(pair.id for pair in alike) == ["manual/d3", "manual/d5"]
    assert sum(pair.query == "Red green blue cat dog" for pair in read_pairs(run_dir.train_pairs)) == 1


@pytest.mark.parametrize("held_out", ["public", "manual"])
def test_a_written_query_that_is_also_given_is_on_one_side(
    held_out: str, write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ScriptedClient.complete
    query = small_pairs()[0]["query"]

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        known = request.version.startswith("queries") and "part 3 " in request.prompt
        return Answer(query, 1, 1) if known else await answer(self, request)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    lenient = ["grading.round_trip=50", "grading.most_answers=50", f'data.held_out=["{held_out}"]']
    config = load_config(write_run(GIVEN, WRITTEN["corpus"]), lenient)
    verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    sides = [list(read_pairs(path)) for path in (run_dir.held_out_pairs, run_dir.train_pairs)]
    assert [len(side) for side in sides] == [40, 39]
    assert {pair.source for pair in sides[0]} == {held_out}
    assert folded(query) in {folded(pair.query) for pair in sides[0]}
    assert folded(query) not in {folded(pair.query) for pair in sides[1]}


def test_all_pairs_may_be_written_and_mined_negatives_suffice(
    write_run: Callable[..., Path], asked: list[Request]
) -> None:
    config = load_config(write_run(*WRITTEN.values()), ["synthesis.limit=0"])
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    assert {each.source for each in read_tuples(run_dir.tuples)} == {"invented", "manual"}
    assert {request.version.split()[0] for request in asked} == {"queries", "invent"}


def test_a_limit_and_a_weight_bound_what_is_asked(write_run: Callable[..., Path], asked: list[Request]) -> None:
    """32 pairs are trained on, so 2 x 32 / 0.75 = 86 are wanted; an eighth of the steps needs 11 of the 40 passages."""
    tables = [GIVEN + "weight = 7\n", WRITTEN["corpus"] + "weight = 1\n"]
    verbs.synthesize(load_config(write_run(*tables), ["synthesis.limit=0"]))
    assert len(asked) == 11
    asked.clear()
    verbs.synthesize(load_config(write_run(GIVEN, WRITTEN["corpus"] + "limit = 15\n"), ["name=x", "synthesis.limit=0"]))
    assert len(asked) == 20  # a quarter of them is held out


# Told before


def test_check_tells_the_mode_of_each_source_and_its_requests(write_run: Callable[..., Path]) -> None:
    """Of 86 pairs in all, an eighth is 11: two for each of 7 tasks. Brainstorming takes 10 requests."""
    weighted = [f"{table}weight = {weight}\n" for table, weight in ((GIVEN, 3), (WRITTEN["tasks"], 1))]
    report = check(load_config(write_run(*weighted, WRITTEN["corpus"] + "weight = 4\nlimit = 12\n")))
    lines = [line.strip() for line in report.splitlines()]
    assert "data        about 41 training pairs from 3 sources, 2 of them written" in lines
    for line in (
        "public: mode pairs, 30 training pairs, 10 held out, 40 documents; weight 3, 37.5% of the steps (about 3)",
        "invented: mode tasks, 7 tasks with 2 pairs each, in cooking, law, about 5 training pairs; weight 1, 12.5% of "
        "the steps (about 1)",
        "manual: mode corpus, 40 passages, queries for 16 of them, about 6 training pairs; weight 4, 50.0% of the "
        "steps (about 4)",
    ):
        assert line in lines
    assert "pairs of invented and manual, then about as many pairs as training sees (32), 4 requests per" in report
    assert "asking      26 requests" in report and "requests for negatives follow, once" in report


@pytest.mark.parametrize("command", [check, verbs.synthesize])
@pytest.mark.parametrize(
    ("bad", "overrides", "message"),
    [
        ("public.jsonl", [], r'source public: .*public.jsonl, line 1: no field "positive"'),
        ("manual.jsonl", [], r'manual.jsonl, line 1: .*field "text"'),
        ("", ['evaluation.tasks=["beir:leaky:test"]'], "of its queries are also in the training pairs"),
    ],
)
def test_faults_of_the_input_are_told_before_anybody_is_asked(
    bad: str,
    overrides: list[str],
    message: str,
    command: Callable[[Config], object],
    write_run: Callable[..., Path],
    tmp_path: Path,
    asked: list[Request],
) -> None:
    path = write_run(GIVEN, *WRITTEN.values())
    if bad:
        (tmp_path / bad).write_text('{"query": 3}\n')
    first = small_pairs()[0]
    folder = tmp_path / "leaky"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(as_lines([{"_id": "d", "text": first["positive"]}]))
    (folder / "queries.jsonl").write_text(as_lines([{"_id": "q", "text": row["query"]} for row in small_pairs()][:1]))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    with pytest.raises(DataError, match=message):
        command(load_config(path, overrides))
    assert asked == []


def test_a_source_without_any_useful_pair_is_told(
    write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ScriptedClient.complete

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        queries = request.version.startswith("queries")
        return Answer("What does this text say?", 1, 1) if queries else await answer(self, request)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    config = load_config(write_run(GIVEN, WRITTEN["corpus"]))
    with pytest.raises(DataError, match=r"source manual: the filters dropped all 40 written pairs. See .*queries.json"):
        verbs.synthesize(config)
    assert "pairs" not in RunDir(config.folder).stages()


# Interrupted, and done again


class PowerCutError(Exception):
    pass


def files_of(folder: Path) -> dict[str, bytes]:
    """What must be the same however the run came about."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "data").rglob("*.json*")}
    return found | {
        name: (folder / name).read_bytes() for name in ("synthesis/candidates.jsonl", "synthesis/parked.jsonl")
    }


def test_interrupted_anywhere_it_goes_on_to_the_same_files(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Request]
) -> None:
    path = write_run(GIVEN, *WRITTEN.values())
    config = load_config(path)
    verbs.synthesize(config)
    expected, once = files_of(config.folder), len(asked)
    other = load_config(path, [f"output={tmp_path / 'other'}"])
    asked.clear()
    answer = ScriptedClient.complete

    def power_cut(*_: object, **__: object) -> None:
        raise PowerCutError

    for calls in (5, 15, 45):  # in the brainstorming, in the invention of pairs, in the queries

        async def some(self: ScriptedClient, request: Request, calls: int = calls) -> Answer:
            if len(asked) >= calls:
                raise PowerCutError
            return await answer(self, request)

        with monkeypatch.context() as patch:
            patch.setattr(ScriptedClient, "complete", some)
            with pytest.raises(PowerCutError):
                verbs.synthesize(other)
        assert list(RunDir(other.folder).stages()) == ["data"]
    for moment in ("filter_queries", "write_records", "prepare", "fit", "keep_all"):
        with monkeypatch.context() as patch:
            patch.setattr(stage, moment, power_cut)
            with pytest.raises(PowerCutError):
                verbs.synthesize(other)
    verbs.synthesize(other)
    assert files_of(other.folder) == expected
    assert len(asked) == once  # and nothing was asked twice
    asked.clear()
    verbs.synthesize(other, force=True)
    assert files_of(other.folder) == expected
    assert asked == []


def test_parked_inputs_name_their_source_and_are_asked_again(
    write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_run(GIVEN, *WRITTEN.values()), ["synthesis.max_parked=1"])
    answer = ScriptedClient.complete

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        silent = request.version.startswith("queries") and "part 3 " in request.prompt
        return Answer(" ", 1, 1) if silent else await answer(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(ScriptedClient, "complete", complete)
        verbs.synthesize(config)
    run_dir = RunDir(config.folder)
    (parked,) = objects(run_dir.parked_pairs)
    assert parked["input"] == "manual/d3"
    before = len(objects(run_dir.source("manual").pairs))
    verbs.synthesize(config, retry=parked["reason"])
    assert objects(run_dir.parked_pairs) == []
    assert len(objects(run_dir.source("manual").pairs)) == before + 1


def test_changed_given_pairs_are_told_and_ask_for_nothing_again(
    write_run: Callable[..., Path], tmp_path: Path, asked: list[Request]
) -> None:
    path = write_run(GIVEN, WRITTEN["tasks"])
    config = load_config(path, ["synthesis.limit=0"])
    verbs.synthesize(config)
    asked.clear()
    (tmp_path / "public.jsonl").write_text(as_lines(small_pairs(60)))
    with pytest.raises(ConfigError, match="made from other input files"):
        verbs.synthesize(config)
    verbs.synthesize(config, force=True)
    counts = Counter(pair.source for path in RunDir(config.folder).pair_files() for pair in read_pairs(path))
    assert counts["public"] == 60
    assert asked == []


def test_batches_hold_the_pairs_of_all_sources_before_any_negatives(write_run: Callable[..., Path]) -> None:
    config = load_config(write_run(GIVEN, *WRITTEN.values()))
    run_dir = RunDir(config.folder)
    run_stages(config, ["data"], force=False)
    plan = next_plan(config, run_dir)
    inputs = Counter(prompted.input.partition("/")[0] for prompted in plan.prompts())
    assert inputs == {"invented": 10, "manual": 40}
    assert plan.count == 50
    verbs.synthesize(config)
    assert next_plan(config, run_dir).description == "writing negatives"
