import asyncio
from pathlib import Path

import pytest
from multigrain.synthesis.prompts import all_grades_prompt, per_grade_prompt
from multigrain.synthesis.synthesize import Parked, Task, choose_pairs, plan, requests_each

from multigrain.config import Config
from multigrain.llm.budget import Budget, Usage
from multigrain.llm.client import Answer, Request
from multigrain.llm.scheduler import answer_all
from multigrain.llm.scripted import MODEL, ScriptedClient
from multigrain.llm.store import AnswerStore
from multigrain.records import Candidate, Pair

PAIRS = [Pair(str(i), f"what is the word number {i} of the list", f"it is the word number {i}") for i in range(6)]


def config(**synthesis: object) -> Config:
    return Config.model_validate(
        {"name": "x", "data": {"pairs": "a"}, "llm": {"provider": "scripted"}, "synthesis": synthesis}
    )


class SaysNothing(ScriptedClient):
    """Answers all but the first pair."""

    async def complete(self, request: Request) -> Answer:
        return Answer("{}", 1, 1) if "number 0" in request.prompt else await super().complete(request)


def tasks(settings: Config) -> list[Task]:
    return list(plan(settings, PAIRS, len(PAIRS), MODEL))


def outcomes(tmp_path: Path, settings: Config, client: ScriptedClient | None = None) -> list[list[Candidate] | Parked]:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        planned = tasks(settings)
        budget = Budget(settings.llm, None, Usage())
        asyncio.run(answer_all([client or ScriptedClient()], [task.ask for task in planned], store, budget))
        return [task.outcome(store) for task in planned]


@pytest.mark.parametrize("style", ["per-grade", "all-grades"])
def test_every_pair_gets_every_grade(tmp_path: Path, style: str) -> None:
    settings = config(prompt_style=style, grades=[4, 1, 3])
    found = outcomes(tmp_path, settings)
    candidates = [candidate for outcome in found if isinstance(outcome, list) for candidate in outcome]
    assert [(c.pair_id, c.grade) for c in candidates] == [(p.id, g) for p in PAIRS for g in (1, 3, 4)]
    assert len(found) == len(PAIRS) * requests_each(settings) == len(PAIRS) * (3 if style == "per-grade" else 1)
    shared = [len(set(c.text.split()) & set(PAIRS[int(c.pair_id)].query.split())) for c in candidates]
    assert shared[0::3] < shared[1::3] < shared[2::3]  # the double follows the grade it is asked for


def test_limit_and_repeats(tmp_path: Path) -> None:
    found = outcomes(tmp_path, config(limit=2, per_grade=3))
    assert len(found) == 2 * 3 * 4
    texts = {candidate.text for outcome in found if isinstance(outcome, list) for candidate in outcome}
    assert len(texts) == 2 * 3 * 4
    assert tasks(config(limit=0)) == []
    samples = [list(choose_pairs(PAIRS, 6, 3, seed)) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert [pair.id for pair in samples[0]] == sorted(pair.id for pair in samples[0])


def test_what_cannot_be_read_is_parked_with_its_reason(tmp_path: Path) -> None:
    first, *others = outcomes(tmp_path, config(prompt_style="all-grades"), SaysNothing())
    assert isinstance(first, Parked)
    assert (first.pair_id, first.reason) == ("0", "unreadable")
    assert 'no usable "grade_1"' in first.detail
    assert all(isinstance(other, list) and len(other) == 4 for other in others)


def test_easy_grades_do_not_see_the_positive() -> None:
    pair = Pair("1", "the query\nof two lines", "word " * 100)
    assert [pair.positive[:20] in per_grade_prompt(pair, grade) for grade in (1, 2, 3, 4)] == [False, False, True, True]
    assert "Query: the query of two lines\n" in per_grade_prompt(pair, 1)
    assert per_grade_prompt(pair, 4).endswith("Near-miss passage:")


def test_a_prompt_holds_nothing_that_a_server_chokes_on() -> None:
    pair = Pair("1", "NUL \0 here", "and \0 there")
    assert "\0" not in per_grade_prompt(pair, 4) + all_grades_prompt(pair, [1])


def test_records_say_who_wrote_what(tmp_path: Path) -> None:
    (first, *_) = outcomes(tmp_path, config())
    assert isinstance(first, list)
    assert first == [Candidate("0", 1, first[0].text, "llm", "scripted", "per-grade-1")]


def test_the_answer_limit_does_not_ask_anew() -> None:
    short, long = tasks(config())[0].ask.request, tasks(config(answer_tokens=500))[0].ask.request
    assert long.max_tokens == 500 != short.max_tokens
    assert long.key == short.key
