"""A language model is asked about no more pairs than training can see, and training then sees these."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config, load_config
from multigrain.data.jsonl import read_tuples, write_records
from multigrain.data.sampling import choose
from multigrain.pipeline import verbs
from multigrain.pipeline.generation import ask, plans
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Document, GradedTuple
from multigrain.training.curriculum import plan
from multigrain.training.grade_schedules import phases_of

Write = Callable[[str, list[dict[str, Any]]], Path]
SHORT = ["training.batch_size=4", "training.phases=[]"]


def asked(config: Config) -> set[str]:
    return plans.ids_to_write_for(config, RunDir(config.folder))


def inputs(config: Config) -> list[str]:
    return [prompted.input for prompted in plans.negatives(config, RunDir(config.folder)).prompts()]


def test_a_larger_sample_holds_the_smaller_one() -> None:
    samples = [set(choose(range(5000), 5000, limit, 3)) for limit in (0, 10, 300, 1500, 4999, None)]
    assert [len(sample) for sample in samples] == [0, 10, 300, 1500, 4999, 5000]
    assert all(one < other for one, other in pairwise(samples))


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 2560),
        ({"synthesis": {"limit": 4000}}, 4000),
        ({"training": {"epochs": 2.0}}, 2560),
        ({"training": {"epochs": 0.25, "batch_size": 32}, "synthesis": {"limit": 4000}}, 1920),  # 60 steps, the fewest
        ({"training": {"steps": 40}}, 2560),
        ({"training": {"steps": 50}}, 3200),
        ({"training": {"steps": 10, "batch_size": 8}}, 80),
        ({"training": {"steps": 10, "batch_size": 8}, "synthesis": {"limit": 20}}, 20),
        ({"training": {"steps": 10, "batch_size": 8}, "synthesis": {"limit": 200}}, 80),
        ({"training": {"schedule": "self-paced", "steps": 100, "batch_size": 8}}, 800),
        ({"training": {"phases": [{"name": n, "grades": [1], "steps": 3} for n in "ab"], "batch_size": 8}}, 48),
        (
            {
                "training": {
                    "phases": [{"name": "a", "grades": [1], "steps": 3}, {"name": "b", "grades": [1], "share": 1}],
                    "steps": 10,
                    "batch_size": 2,
                }
            },
            20,
        ),
        ({"synthesis": {"limit": 0}}, 0),
    ],
)
def test_no_more_pairs_are_asked_about_than_training_sees(settings: dict[str, Any], most: int) -> None:
    config = Config.model_validate({"name": "x", "data": {"pairs": "a"}, **settings})
    assert config.pairs_asked(5000) == most
    assert config.pairs_asked(7) == min(most, 7)
    phases = phases_of(config.training, tuples=5000)
    assert config.training.total_steps(5000) == sum(phase.steps or 0 for phase in phases)


def test_training_sees_the_pairs_that_were_asked_about(run_toml: Path) -> None:
    config = load_config(run_toml, [*SHORT, "training.steps=3"])
    verbs.grade(_synthesized(config))
    asked_ids, tuples = asked(config), list(read_tuples(RunDir(config.folder).tuples))
    assert len(asked_ids) == 12 < len(tuples)
    assert set(inputs(config)) == asked_ids
    written = {graded.id for graded in tuples if any(n.source == "llm" for n in graded.negatives)}
    assert written <= asked_ids
    seen = _trained_on(config, tuples)
    assert asked_ids & {graded.id for graded in tuples} <= seen


def _synthesized(config: Config) -> Config:
    verbs.synthesize(config)
    return config


def _trained_on(config: Config, tuples: Sequence[GradedTuple]) -> set[str]:
    from multigrain.pipeline.stages.train import _planned

    curriculum, _ = _planned(config, RunDir(config.folder), list(tuples))
    return {id for step in range(curriculum.steps) for id in curriculum.ids_at(step)}


def test_tuples_that_come_first_leave_the_order_of_all_others_to_the_seed() -> None:
    tuples = [GradedTuple(str(n), f"query {n}", f"positive {n}", ()) for n in range(60)]
    phases = phases_of(Config.model_validate({"name": "x", "data": {"pairs": "a"}}).training, ())[:1]
    phases = [phases[0].model_copy(update={"steps": 5})]
    first = {str(n) for n in range(0, 60, 4)}
    curriculum = plan(tuples, phases, 4, first=first)
    seen = {id for step in range(5) for id in curriculum.ids_at(step)}
    assert first < seen and len(seen) == 20


def test_a_raised_cap_pays_for_the_new_pairs_alone(run_toml: Path) -> None:
    few, more = (load_config(run_toml, [*SHORT, f"training.steps={steps}"]) for steps in (3, 5))
    verbs.synthesize(few)
    before = set(inputs(few))
    verbs.synthesize(more, force=True)
    after = set(inputs(more))
    assert before < after and len(after) == 20
    keys = {prompted.request.key for prompted in plans.negatives(more, RunDir(more.folder)).prompts()}  # some are equal
    answered, spent = ask.spent(RunDir(more.folder))
    assert answered.calls == spent.calls == len(keys)


def test_queries_are_written_for_as_many_passages_as_training_has_use_for(tmp_path: Path) -> None:
    """Twice as many as training sees: the filters drop some. Some more are held out."""
    settings = {
        "name": "x",
        "output": str(tmp_path),
        "data": {"corpus": "a.jsonl", "held_out": 0.2},
        "llm": {"provider": "scripted"},
        "synthesis": {"mode": "corpus"},
        "training": {"steps": 3, "batch_size": 4},
    }
    run_dir = RunDir(tmp_path / "x")
    documents = [Document(str(n), f"passage {n}", "held_out" if n % 5 == 0 else "both") for n in range(100)]
    write_records(run_dir.passages, documents)
    query_plan = plans.queries(Config.model_validate(settings), run_dir)
    assert query_plan.count == len(list(query_plan.prompts())) == 30  # 2 * 3 * 4 / 0.8
    settings["synthesis"] = {"mode": "corpus", "queries_per_passage": 3}
    assert plans.queries(Config.model_validate(settings), run_dir).count == 30
    settings["training"] = {"steps": 30}
    assert plans.queries(Config.model_validate(settings), run_dir).count == 300


def test_where_the_length_is_in_epochs_the_passages_decide_how_many_queries_are_written() -> None:
    """An epoch is of all that are written; without a limit that is enough for 2,560 pairs."""
    settings: dict[str, Any] = {"name": "x", "data": {"corpus": "a.jsonl", "held_out": 0.2}}
    settings["synthesis"] = {"mode": "corpus"}
    assert Config.model_validate(settings).passages_asked == 6400  # 2 x 2,560 / 0.8
    settings["synthesis"] = {"mode": "corpus", "limit": 20_000, "queries_per_passage": 2}
    assert Config.model_validate(settings).passages_asked == 20_000


def test_no_more_pairs_are_invented_than_training_has_use_for() -> None:
    def each(**training: float) -> int:
        settings = {
            "name": "x",
            "data": {"held_out": 0.0},
            "synthesis": {"mode": "tasks", "domains": ["law"], "tasks": 8},
            "training": {"batch_size": 4, **training},
        }
        return Config.model_validate(settings).pairs_invented_each

    assert [each(steps=steps) for steps in (1, 3, 8, 80)] == [1, 3, 8, 10]
    assert each(epochs=0.5) == each() == 10
