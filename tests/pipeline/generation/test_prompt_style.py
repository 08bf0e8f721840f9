"""The probe of the prompt style, with a language model that can do one style and not the other."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multigrain.config import Config, load_config
from multigrain.data.jsonl import write_records
from multigrain.errors import LLMError, LLMRefused, LLMUnavailable
from multigrain.extras import MODEL
from multigrain.llm.clients.scripted import ScriptedClient
from multigrain.llm.protocol import Answer, Request
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline import check
from multigrain.pipeline.generation import plans, prompt_style
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair

PAIRS = [Pair(f"p{n}", f"query {n} of amber bronze cedar dahlia", f"amber bronze cedar dahlia {n}") for n in range(20)]
LEVEL = {f"level{number}": number / 10 for number in range(10)}


def embed(texts: Sequence[str], role: Role) -> Vectors:
    """A text that names a level has this cosine to all queries; positives and queries have 1."""
    cosine = np.array([next((LEVEL[word] for word in text.split() if word in LEVEL), 1.0) for text in texts])
    return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1).astype(np.float32)


Levels = dict[int, int]
ORDERED: Levels = {1: 1, 2: 3, 3: 5, 4: 7}
REVERSED: Levels = {1: 7, 2: 5, 3: 3, 4: 1}


class Asked:
    """What went out, and the levels that the language model writes at in each style."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.all_grades, self.per_grade = ORDERED, REVERSED

    def styles(self) -> set[str]:
        names = {request.version.split()[-1].partition("@")[0] for request in self.requests}
        return {"all-grades" if name == "all_grades" else "per-grade" for name in names}

    def answer(self, request: Request) -> str:
        self.requests.append(request)
        name = request.version.split()[-1].partition("@")[0]
        if name == "all_grades":
            return json.dumps({f"grade_{grade}": f"some text of level{at}" for grade, at in self.all_grades.items()})
        return f"some text of level{self.per_grade[int(name[-1])]}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        return Answer(found.answer(request), 1, 1)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    monkeypatch.setattr(prompt_style, "judge_encoder", lambda *_: embed)
    return found


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., tuple[Config, RunDir]]:
    def make(**sections: Any) -> tuple[Config, RunDir]:
        settings = {"name": "x", "output": str(tmp_path), "data": {"pairs": "a"}, "llm": {"provider": "scripted"}}
        config = Config.model_validate(settings | sections)
        run_dir = RunDir(config.folder)
        write_records(run_dir.train_pairs, PAIRS)
        return config, run_dir

    return make


Configured = Callable[..., tuple[Config, RunDir]]


def test_the_style_whose_grades_are_in_order_is_taken(configured: Configured, asked: Asked) -> None:
    config, run_dir = configured()
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "all-grades"
    noted = json.loads(run_dir.style.read_text())
    assert (noted["style"], noted["order_rates"]) == ("all-grades", {"all-grades": 1.0, "per-grade": 0.25})
    assert len(asked.requests) == prompt_style.PROBED * (1 + 4)


def test_whichever_it_is(configured: Configured, asked: Asked) -> None:
    asked.all_grades, asked.per_grade = REVERSED, ORDERED
    config, run_dir = configured()
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "per-grade"


def test_of_equals_the_cheaper_is_taken(configured: Configured, asked: Asked) -> None:
    asked.per_grade = ORDERED
    assert prompt_style.with_decided_style(*configured()).synthesis.prompt_style == "all-grades"


def test_a_hardest_negative_as_relevant_as_the_positive_is_out_of_order(configured: Configured, asked: Asked) -> None:
    """Both rise from grade to grade; one goes on rising past the positive."""
    asked.all_grades, asked.per_grade = {1: 1, 2: 2, 3: 8, 4: 9}, {1: 1, 2: 2, 3: 3, 4: 4}
    config, run_dir = configured(grading={"false_negative_above": 0.85})
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "per-grade"
    assert json.loads(run_dir.style.read_text())["order_rates"] == {"all-grades": 0.75, "per-grade": 1.0}


def test_a_model_that_cannot_write_a_style_is_asked_in_the_other(
    configured: Configured, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def complete(self: ScriptedClient, request: Request) -> Answer:
        text = asked.answer(request)
        return Answer("I would rather not." if request.schema else text, 1, 1)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    assert prompt_style.with_decided_style(*configured()).synthesis.prompt_style == "per-grade"


@pytest.mark.parametrize("error", [LLMUnavailable("the server is down"), LLMRefused("the key is refused")])
def test_where_nobody_answers_nothing_is_decided(
    error: LLMError, configured: Configured, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a broken connection would decide the style of the run for good."""
    config, run_dir = configured()

    def ask_all(*_: object) -> int:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("multigrain.pipeline.generation.ask.ask_all", ask_all)
        with pytest.raises(LLMError, match=str(error)):
            prompt_style.with_decided_style(config, run_dir)
    assert not run_dir.style.exists()
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "all-grades"


def test_a_style_that_the_server_refuses_is_not_taken(
    configured: Configured, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many servers have no completions."""
    from multigrain.pipeline.generation import ask, plans

    ask_all = ask.ask_all

    def no_completions(config: Config, run_dir: RunDir, plan: plans.Plan) -> int:
        if config.prompt_style == "per-grade":
            raise LLMRefused("no such address")
        return ask_all(config, run_dir, plan)

    asked.all_grades = {1: 1, 2: 3, 3: 2, 4: 1}
    monkeypatch.setattr(ask, "ask_all", no_completions)
    config, run_dir = configured()
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "all-grades"
    assert json.loads(run_dir.style.read_text())["order_rates"]["per-grade"] == 0


def test_the_decision_is_noted_and_not_asked_again(configured: Configured, asked: Asked) -> None:
    config, run_dir = configured()
    prompt_style.with_decided_style(config, run_dir)
    asked.requests.clear()
    asked.all_grades, asked.per_grade = REVERSED, ORDERED
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "all-grades"
    assert prompt_style.with_known_style(config, run_dir).synthesis.prompt_style == "all-grades"
    changed, _ = configured(
        synthesis={"per_grade": 3}, grading={"repairs": 3}, seed=8, llm={"provider": "scripted", "temperature": 0.1}
    )
    assert prompt_style.with_decided_style(changed, run_dir).synthesis.prompt_style == "all-grades"
    assert asked.requests == []


def test_a_known_model_is_not_probed(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both styles on eight pairs are four minutes of the embedded model's."""

    def ask_all(*_: object) -> int:
        raise AssertionError("nobody needs to be asked")

    monkeypatch.setattr("multigrain.pipeline.generation.ask.ask_all", ask_all)
    embedded = {"provider": "embedded"}
    for decide in (prompt_style.with_decided_style, prompt_style.with_known_style, prompt_style.with_assumed_style):
        config, run_dir = configured(llm=embedded, synthesis={"language": "German"})
        assert decide(config, run_dir).synthesis.prompt_style == "per-grade"
        assert not run_dir.style.exists()
    served = {"provider": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": MODEL}
    assert prompt_style.with_decided_style(*configured(llm=served)).synthesis.prompt_style == "per-grade"
    own, run_dir = configured(llm=embedded, synthesis={"prompt_style": "all-grades"})
    assert (
        prompt_style.with_decided_style(own, run_dir).synthesis.prompt_style == "all-grades"
    )  # who says it has his way


def test_what_a_folder_was_begun_with_stays(configured: Configured) -> None:
    config, run_dir = configured(llm={"provider": "embedded"})
    prompt_style._note(config, run_dir, "all-grades", {})
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "all-grades"


def test_another_model_another_language_or_another_prompt_is_asked_again(
    configured: Configured, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = configured()
    prompt_style.with_decided_style(config, run_dir)
    asked.all_grades, asked.per_grade = REVERSED, ORDERED
    with monkeypatch.context() as patch:
        patch.setattr("multigrain.llm.clients.scripted.MODEL", "another")
        assert prompt_style.with_known_style(config, run_dir).synthesis.prompt_style == "auto"
        assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "per-grade"
    german, _ = configured(synthesis={"language": "German"})
    assert prompt_style.with_known_style(german, run_dir).synthesis.prompt_style == "auto"
    (tmp_path / "all_grades.txt").write_text("Write $keys for $query")
    own, _ = configured(synthesis={"prompts": str(tmp_path)})
    asked.requests.clear()
    assert prompt_style.with_decided_style(own, run_dir).synthesis.prompt_style != "auto"
    # What was written by a prompt that stayed as it was serves again.
    assert len(asked.requests) == prompt_style.PROBED
    assert all(request.prompt.startswith("Write ") for request in asked.requests)
    (tmp_path / "all_grades.txt").write_text("Write $keys for $positive")
    assert prompt_style.with_known_style(own, run_dir).synthesis.prompt_style == "auto"


@pytest.mark.parametrize(
    "synthesis",
    [{"limit": 0}, {"sources": {str(grade): "mined" for grade in (1, 2, 3, 4)}}, {"prompt_style": "per-grade"}],
)
def test_where_nothing_is_to_be_found_out_nobody_is_asked(
    synthesis: dict[str, Any], configured: Configured, asked: Asked
) -> None:
    config, run_dir = configured(synthesis=synthesis)
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "per-grade"
    assert asked.requests == []
    assert not run_dir.style.exists()


def test_the_probe_keeps_to_the_pairs_of_the_run(configured: Configured, asked: Asked) -> None:
    config, run_dir = configured(synthesis={"limit": 3})
    prompt_style.with_decided_style(config, run_dir)
    assert len(asked.requests) == 3 * (1 + 4)


def test_what_the_probe_has_had_written_is_not_asked_for_again(configured: Configured, asked: Asked) -> None:
    from multigrain.pipeline.generation import ask

    config, run_dir = configured()
    decided = prompt_style.with_decided_style(config, run_dir)
    asked.requests.clear()
    ask.ask_all(decided, run_dir, plans.negatives(decided, run_dir))
    assert len(asked.requests) == len(PAIRS) - prompt_style.PROBED
    assert asked.styles() == {"all-grades"}


def test_one_grade_alone_is_compared_with_the_positive(configured: Configured, asked: Asked) -> None:
    asked.all_grades, asked.per_grade = {2: 2}, {2: 2}
    config, run_dir = configured(synthesis={"grades": [2]})
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "all-grades"
    assert json.loads(run_dir.style.read_text())["order_rates"] == {"all-grades": 1.0, "per-grade": 1.0}


def test_batches_take_the_likely_style_and_stay_with_it(configured: Configured, asked: Asked) -> None:
    config, run_dir = configured()
    assert prompt_style.with_assumed_style(config, run_dir).synthesis.prompt_style == "per-grade"
    assert prompt_style.with_decided_style(config, run_dir).synthesis.prompt_style == "per-grade"
    assert asked.requests == []
    endpoint = {"provider": "endpoint", "model": "m", "base_url": "http://localhost:1/v1"}
    other, other_dir = configured(name="y", llm=endpoint)
    assert prompt_style.with_assumed_style(other, other_dir).synthesis.prompt_style == "all-grades"


def test_batches_stay_with_what_a_probe_has_found(configured: Configured, asked: Asked) -> None:
    config, run_dir = configured()
    prompt_style.with_decided_style(config, run_dir)
    assert prompt_style.with_assumed_style(config, run_dir).synthesis.prompt_style == "all-grades"


def test_a_check_asks_nobody(run_toml: Path, asked: Asked) -> None:
    config = load_config(run_toml, ["synthesis.prompt_style=auto"])
    assert "per-grade, unless a probe of both styles finds otherwise" in check.check(config)
    assert asked.requests == []
    assert not config.folder.exists()
