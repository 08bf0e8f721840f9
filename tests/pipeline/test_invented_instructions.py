"""Mode `tasks` from end to end: the sentence of each invented task is the instruction of its queries in training."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_tuples
from multigrain.model.load import load_model
from multigrain.pipeline.run_dir import RunDir
from multigrain.training import loss, unique_texts
from multigrain.training.unique_texts import Features

RUN = """
name = "{name}"
output = "{folder}"
evaluation.retrievers = ["dense"]
baseline.against = "none"
[data]
held_out = 0.25
[llm]
provider = "scripted"
[synthesis]
mode = "tasks"
domains = ["cooking", "law"]
tasks = 7
pairs_per_task = 4
prompt_style = "per-grade"
[grading]
judge = "embedding"
bands = [0.1, 0.3, 0.5]
round_trip = 50
most_answers = 50
repairs = 0
[model]
base = "embedded"
prompt_in_pooling = false
[training]
batch_size = 4
steps = 4
checkpoint_every = 1
"""
KILLED = """
import os, signal, sys
from multigrain.cli.main import main
from multigrain.llm.clients.scripted import ScriptedClient
path, place = sys.argv[1:]
answers = 0
if place == "pairs":
    answer = ScriptedClient.complete
    async def complete(self, request):
        global answers
        answers += "pair@" in request.version
        if answers == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return await answer(self, request)
    ScriptedClient.complete = complete
else:
    from multigrain.training.trainer import CurriculumTrainer
    real = CurriculumTrainer.log
    def log(self, *arguments):
        if self.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *arguments)
    CurriculumTrainer.log = log
main(["run", path])
"""
MADE = (
    *("data/train.jsonl", "data/tasks.jsonl", "data/held_out.jsonl", "grading/tuples.jsonl"),
    *("evaluation/per_query.jsonl", "model/model.safetensors", "model/config_sentence_transformers.json"),
)
"""What must be the same however the run came about."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The token ids of all queries that training reads from now on."""
    seen: list[tuple[int, ...]] = []
    real = unique_texts.distinct

    def distinct(columns: list[Features], *options: Any) -> Any:
        for ids, mask in zip(columns[0]["input_ids"], columns[0]["attention_mask"].bool(), strict=True):
            seen.append(tuple(ids[mask].tolist()))
        return real(columns, *options)

    monkeypatch.setattr(loss, "distinct", distinct)
    return seen


def kill(path: Path, place: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), place], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL


def test_queries_are_read_with_the_sentence_of_their_task(tmp_path: Path, read: list[tuple[int, ...]]) -> None:
    """So are those of a run that is killed twice, and goes on as if it had not been."""
    made: list[dict[str, bytes]] = []
    for name in ("whole", "killed"):
        path = tmp_path / f"{name}.toml"
        path.write_text(RUN.format(name="invented", folder=tmp_path / name))
        run_dir = RunDir(load_config(path).folder)
        if name == "killed":
            kill(path, "pairs")
            assert not run_dir.train_pairs.exists()
            kill(path, "training")
            assert run_dir.tuples.exists() and not run_dir.trained.exists()
        read.clear()
        assert main(["run", str(path)]) == 0
        model = load_model(run_dir.trained)
        tuples = list(read_tuples(run_dir.tuples))
        assert len({graded.instruction for graded in tuples}) > 1
        own = {f"Instruct: {graded.instruction}\nQuery: {graded.query}" for graded in tuples}
        known = {tuple(model.tokenizer(text)["input_ids"]) for text in own}
        assert len(read) == (16 if name == "whole" else 8)  # the batches of 4 or, after two steps, of 2
        assert set(read) <= known
        assert len({model.tokenizer.decode(ids).partition("query :")[0] for ids in read}) > 1
        made.append({file: (run_dir.folder / file).read_bytes() for file in MADE})
    assert made[0] == made[1]
