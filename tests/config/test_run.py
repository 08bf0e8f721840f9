import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from multigrain.config import QUICKSTART, Config, differences, load_config
from multigrain.config.evaluation import EvaluationSection
from multigrain.pipeline.run_dir import to_toml
from tests.config.text import GOOD, load


def test_fingerprint_depends_on_the_sections_named_alone(tmp_path: Path) -> None:
    one, other = load(tmp_path, GOOD), load(tmp_path, GOOD, "training.batch_size=32")
    assert one.fingerprint("data", "model") == other.fingerprint("data", "model")
    assert one.fingerprint("training") != other.fingerprint("training")


def test_quickstart_survives_the_run_folder() -> None:
    config = load_config(QUICKSTART)
    assert differences(tomllib.loads(to_toml(config)), config) == []


def test_a_length_survives_the_run_folder() -> None:
    for training in ({"steps": 8}, {"epochs": 2.5}, {}):
        config = Config.model_validate({"name": "x", "data": {"pairs": "a.jsonl"}, "training": training})
        assert Config.model_validate(tomllib.loads(to_toml(config))) == config


def test_a_run_folder_of_an_earlier_version_has_the_steps_of_its_phases() -> None:
    """It names the default of then, 80, though its phases bring their own."""
    phases = [{"name": name, "grades": [1], "steps": 4} for name in "ab"]
    settings = {"name": "x", "data": {"pairs": "a.jsonl"}, "training": {"steps": 80, "phases": phases}}
    assert Config.model_validate(settings).training.total_steps(1000) == 8


@given(st.text(min_size=1), st.floats(0.001, 0.3, allow_nan=False), st.integers(2, 512))
def test_any_setting_survives_the_run_folder(phase: str, rate: float, batch: int) -> None:
    settings = {
        "name": "x",
        "data": {"pairs": "a.jsonl"},
        "training": {
            "batch_size": batch,
            "learning_rate": rate,
            "phases": [{"name": phase, "grades": [1, 4], "steps": 3}],
        },
    }
    config = Config.model_validate(settings)
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize(
    ("retrievers", "fault"),
    [
        (["bm25", "hybrid"], 'add "dense", the one that training changes'),
        ([], 'add "dense"'),
        (["dense", "bm25", "bm25"], "name each retriever once"),
        (["dense", "splade"], "'dense', 'bm25' or 'hybrid'"),
    ],
)
def test_retrievers_that_cannot_be_measured_are_refused(retrievers: list[str], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        EvaluationSection(retrievers=retrievers)  # type: ignore[arg-type]


def test_the_passages_of_a_source_depend_on_its_limit_and_on_the_queries_for_each() -> None:
    source = {"name": "a", "mode": "corpus", "corpus": "c", "limit": 6}
    drawings = set()
    for limit, each, tokens in ((6, 1, 8), (6, 1, 9), (6, 2, 8), (3, 1, 8)):
        synthesis = {"queries_per_passage": each, "answer_tokens": tokens}
        config = Config.model_validate(
            {"name": "x", "data": {"sources": [{**source, "limit": limit}]}, "synthesis": synthesis}
        )
        drawings.add(config.fingerprint("drawing"))
    assert len(drawings) == 2  # 6 passages, or 3
