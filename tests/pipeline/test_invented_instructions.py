"""Mode `tasks` from end to end: the sentence of each invented task is the instruction of its queries in training."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from multigrain.config import load_config
from multigrain.data.jsonl import read_tuples
from multigrain.model.load import load_model
from multigrain.pipeline import verbs
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
from multigrain.training.trainer import CurriculumTrainer
from multigrain.pipeline import verbs
real = CurriculumTrainer.log
def log(self, *arguments):
    if self.state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *arguments)
CurriculumTrainer.log = log
verbs.train(sys.argv[1])
"""


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


def test_queries_are_read_with_the_sentence_of_their_task(tmp_path: Path, read: list[tuple[int, ...]]) -> None:
    """So are those of a training that is killed, and goes on as if it had not been."""
    weights: list[torch.Tensor] = []
    for name in ("whole", "killed"):
        path = tmp_path / f"{name}.toml"
        path.write_text(RUN.format(name=name, folder=tmp_path / "runs"))
        verbs.synthesize(load_config(path))
        verbs.grade(load_config(path))
        run_dir = RunDir(load_config(path).folder)
        if name == "killed":
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
            assert killed.returncode == -signal.SIGKILL
        read.clear()
        verbs.train(load_config(path))
        model = load_model(run_dir.trained)
        tuples = list(read_tuples(run_dir.tuples))
        assert len({graded.instruction for graded in tuples}) > 1
        own = {f"Instruct: {graded.instruction}\nQuery: {graded.query}" for graded in tuples}
        known = {tuple(model.tokenizer(text)["input_ids"]) for text in own}
        assert len(read) == (16 if name == "whole" else 8)  # the batches of 4 or, after two steps, of 2
        assert set(read) <= known
        assert len({model.tokenizer.decode(ids).partition("query :")[0] for ids in read}) > 1
        weights.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert torch.equal(*weights)
