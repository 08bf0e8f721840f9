"""Instructions in evaluation: of pairs, and of the table `evaluation.instructions`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.beir import RetrievalTask
from multigrain.errors import ConfigError
from multigrain.evaluation.evaluate import evaluate
from multigrain.evaluation.tasks import GradedTask, held_out_task, with_instruction
from multigrain.grading.judges import EmbeddingJudge
from multigrain.model.load import load_base, load_model
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline.encoders import base_encoder, judge_encoder
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Document, GradedTuple, Negative, Pair
from tests.conftest import ROUNDED, small_pairs

UP, DOWN = "find what is above", "find what is below"


class ByInstruction:
    """Queries point up or down, as their instruction says; documents do as their text says."""

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        return np.array([[{"up": 1.0, "down": -1.0}.get(text, 0.1), 0.1] for text in texts], np.float32)

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None]) -> Vectors:
        return np.array([[{UP: 1.0, DOWN: -1.0}.get(own or "", 0.0), 0.0] for own in instructions], np.float32)


CORPUS = [Document("u", "up"), Document("d", "down"), Document("o", "other")]


def test_a_text_with_two_instructions_is_two_queries() -> None:
    pairs = [Pair("1", "which", "up", instruction=UP), Pair("2", "which", "down", instruction=DOWN)]
    task = held_out_task([*pairs, Pair("3", "Which ", "up", instruction=UP)], CORPUS, [Pair("4", "which", "other")])
    assert task.queries == {"1": "which", "2": "which"}
    assert task.relevance == {"1": {"u": 1}, "2": {"d": 1}}
    assert task.own == {"1": "o", "2": "o"}
    found = evaluate(task, ByInstruction())
    assert {id: scores["nDCG@10"] for id, scores in found.scores.items()} == {"1": 1.0, "2": 1.0}


def test_given_instructions_and_those_of_tuples_are_read() -> None:
    task = RetrievalTask("beir:x:test", {"1": "which"}, CORPUS, {"1": {"d": 1}})
    assert evaluate(with_instruction(task, DOWN), ByInstruction()).scores["1"]["nDCG@10"] == 1.0
    assert evaluate(with_instruction(task, UP), ByInstruction()).scores["1"]["nDCG@10"] < 1.0
    assert with_instruction(task, None) is task
    negatives = (Negative("up", 1, 0.1, "llm"),)
    graded = GradedTask("x", [GradedTuple("1", "which", "down", negatives, instruction=own) for own in (UP, DOWN)][1:])
    assert min(evaluate(graded, ByInstruction()).scores["1"].values()) == 1.0


def test_a_judge_reads_instructions() -> None:
    judge = EmbeddingJudge(ByInstruction())
    pairs = [("which", "up"), ("which", "up"), ("which", "down")]
    found = judge.scores(pairs, [UP, DOWN, DOWN])
    assert found == pytest.approx([1.0, -1.0, 1.0])
    assert judge.scores(pairs[:1], [UP]) + judge.scores(pairs[:1], [DOWN]) == found[:2]


def test_prompts_of_judge_and_base(run_toml: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """A judge whose prompt has a place for it reads the instruction; the base has its own prompts."""
    place = json.dumps("the {instruction} eat ")
    config = load_config(run_toml, [f"model.query_prompt={place}", f"grading.query_prompt={place}"])
    model = load_base(str(tiny_encoder), 32)
    judge, base = judge_encoder(config, RunDir(tmp_path)), base_encoder(config, RunDir(tmp_path))
    texts = ["where is the cat"] * 2
    expected = model.encode(["the find a fish eat where is the cat", texts[1]], normalize_embeddings=True)
    np.testing.assert_allclose(judge.queries(texts, ["find a fish", None]), expected, atol=ROUNDED)
    np.testing.assert_allclose(base.queries(texts, ["find a fish", None]), expected[[1, 1]], atol=ROUNDED)


def test_a_run_and_a_search_read_instructions(
    run_toml: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{**pair, "instruction": ("find a cat", "find the house")[n % 2]} for n, pair in enumerate(small_pairs())]
    write_jsonl("pairs.jsonl", pairs)
    place = json.dumps("the {instruction} eat ")
    assert main(["run", str(run_toml), "--set", f"model.query_prompt={place}"]) == 0
    assert "tuples have an instruction (2 different)" in capsys.readouterr().err
    config = load_config(run_toml)
    run_dir = RunDir(config.folder)
    model = load_model(run_dir.model)
    assert model.prompts["instruction"] == "the {instruction} eat "
    documents = [json.loads(line) for line in run_dir.corpus.read_text().splitlines()]
    vectors = model.encode([document["text"] for document in documents])
    shown = []
    for instruction, prompt in ((None, ""), ("find a fish", "the find a fish eat ")):
        asked = [] if instruction is None else ["--instruction", instruction]
        assert (
            main(["search", str(config.folder), "where is the cat", "--retriever", "dense", "--top", "1", *asked]) == 0
        )
        shown.append(capsys.readouterr().out.split()[0])
        best = float((model.encode([prompt + "where is the cat"]) @ vectors.T).max())
        assert float(shown[-1]) == pytest.approx(best, abs=2e-3)
    for bad in ("", "two\nlines"):
        assert main(["search", str(config.folder), "where is the cat", "--instruction", bad]) == 2
        assert "--instruction: found" in capsys.readouterr().err


def test_one_instruction_for_all_pairs_gives_the_run_of_a_model_with_it(
    run_toml: Path, write_jsonl: Callable[..., Path]
) -> None:
    """To the last bit, whether no pair has it, each has, or some have."""
    made: list[list[bytes]] = []
    for name, step in (("none", 0), ("each", 1), ("some", 3)):
        own = {"instruction": "find the cat"}
        pairs = [{**pair, **(own if step and n % step == 0 else {})} for n, pair in enumerate(small_pairs())]
        write_jsonl("pairs.jsonl", pairs)
        assert main(["run", str(run_toml), "--set", "model.instruction=find the cat", "--set", f"name={name}"]) == 0
        folder = run_toml.parent / "runs" / name
        files = ("model/model.safetensors", "evaluation/per_query.jsonl", "evaluation/scores.json")
        made.append([(folder / file).read_bytes() for file in files])
    assert made[0] == made[1] == made[2]


def test_a_search_by_a_model_without_instructions_refuses_one(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(run_toml)]) == 0
    assert main(["search", str(load_config(run_toml).folder), "where is the cat", "--instruction", "find it"]) == 2
    assert "--instruction: found 'find it', but the model was trained without instructions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ('"beir:here:test" = " "', "wanted one line"),
        ('"beir:here:test" = "two\\nlines"', "wanted one line"),
        ('"beir:there:test" = "find it"', 'there:test" is not among tasks; wanted one such as ".*here:test"'),
        ('"held-out" = "find it"', 'found "held-out"; wanted a beir: or mteb: task'),
        ('"mteb:SciFact" = "find it"', '"mteb:SciFact" is not among tasks'),
    ],
)
def test_faults_of_the_table(run_toml: Path, table: str, fault: str) -> None:
    """Its names are relative to the file of the run, as those of the tasks are."""
    tasks = 'tasks = ["held-out", "beir:here:test"]'
    good = '"beir:here:test" = "find it"'
    text = run_toml.read_text().replace('evaluation.precision = "fp32"', "")
    for own in (good, table):
        run_toml.write_text(f"{text}[evaluation]\n{tasks}\n[evaluation.instructions]\n{own}\n")
        if own is good:
            assert load_config(run_toml).evaluation.instructions == {f"beir:{run_toml.parent}/here:test": "find it"}
            continue
        with pytest.raises(ConfigError, match=fault):
            load_config(run_toml)
