"""Sources whose pairs are written beside sources with given pairs, through the pipeline, with a judge of words."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from multigrain.config import load_config
from multigrain.data.jsonl import read_pairs, read_tuples
from multigrain.llm.protocol import Request
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from tests.conftest import as_lines, small_pairs
from tests.pipeline.stages.several_sources import objects
from tests.pipeline.stages.test_pairs import embed, passages

GIVEN = '[[data.sources]]\nname = "public"\npairs = "public.jsonl"\n'
WRITTEN = {
    "tasks": '[[data.sources]]\nname = "invented"\nmode = "tasks"\n',
    "corpus": '[[data.sources]]\nname = "manual"\nmode = "corpus"\ncorpus = "manual.jsonl"\n',
}
NAMES = {"tasks": "invented", "corpus": "manual"}


@pytest.fixture(autouse=True)
def _judge_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pairs", "synthesize", "grade"):
        monkeypatch.setattr(f"multigrain.pipeline.stages.{name}.judge_encoder", lambda *_: embed)


@pytest.fixture
def write_run(tmp_path: Path, tiny_encoder: Path) -> Callable[..., Path]:
    """Write a run with these tables of sources; `{weight}` in a table is for a weight."""

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
