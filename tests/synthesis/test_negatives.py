import asyncio
from pathlib import Path

import pytest

from multigrain.config import Config
from multigrain.data.sampling import choose
from multigrain.llm.budget import Budget, Usage
from multigrain.llm.clients.scripted import MODEL, ScriptedClient
from multigrain.llm.prompted_input import Parked, Prompted
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from multigrain.records import Candidate, Pair
from multigrain.synthesis.negatives import plan_negatives, plan_repairs, requests_each

PAIRS = [Pair(str(i), f"what is the word number {i} of the list", f"it is the word number {i}") for i in range(6)]


def config(**synthesis: object) -> Config:
    return Config.model_validate(
        {"name": "x", "data": {"pairs": "a"}, "llm": {"provider": "scripted"}, "synthesis": synthesis}
    )


class SaysNothing(ScriptedClient):
    """Answers all but the first pair."""

    async def complete(self, request: Request) -> Answer:
        return Answer("{}", 1, 1) if "number 0" in request.prompt else await super().complete(request)


def tasks(settings: Config, pairs: list[Pair] = PAIRS) -> list[Prompted[list[Candidate]]]:
    return list(plan_negatives(settings, lambda: pairs, len(pairs), MODEL))


def outcomes(tmp_path: Path, settings: Config, client: ScriptedClient | None = None) -> list[list[Candidate] | Parked]:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        planned = tasks(settings)
        budget = Budget(settings.llm, None, Usage())
        asyncio.run(answer_all([client or ScriptedClient()], planned, store, budget))
        return [task.outcome(store) for task in planned]


@pytest.mark.parametrize("style", ["per-grade", "all-grades"])
def test_every_pair_gets_every_grade(tmp_path: Path, style: str) -> None:
    settings = config(prompt_style=style, grades=[4, 1, 3])
    found = outcomes(tmp_path, settings)
    candidates = [candidate for outcome in found if isinstance(outcome, list) for candidate in outcome]
    assert [(c.pair_id, c.grade) for c in candidates] == [(p.id, g) for p in PAIRS for g in (1, 3, 4)]
    assert len(found) == len(PAIRS) * requests_each(settings) == len(PAIRS) * (3 if style == "per-grade" else 1)
    if style == "all-grades":
        shared = [len(set(c.text.split()) & set(PAIRS[int(c.pair_id)].query.split())) for c in candidates]
        assert shared[0::3] < shared[1::3] < shared[2::3]  # the double follows the grade it is asked for
    else:  # a cloze: the positive with a term exchanged
        assert all(
            c.text != PAIRS[int(c.pair_id)].positive and c.text.startswith("it is the") for c in candidates[2::3]
        )


def test_limit_and_repeats(tmp_path: Path) -> None:
    found = outcomes(tmp_path, config(limit=2, per_grade=3))
    assert len(found) == 2 * 3 * 4
    texts = {candidate.text for outcome in found if isinstance(outcome, list) for candidate in outcome}
    assert len(texts) == 2 * 3 * 4
    assert tasks(config(limit=0)) == []
    samples = [list(choose(PAIRS, 6, 3, seed)) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert [pair.id for pair in samples[0]] == sorted(pair.id for pair in samples[0])


def test_what_cannot_be_read_is_parked_with_its_reason(tmp_path: Path) -> None:
    first, *others = outcomes(tmp_path, config(prompt_style="all-grades"), SaysNothing())
    assert isinstance(first, Parked)
    assert (first.input, first.reason) == ("0", "unreadable")
    assert 'no usable "grade_1"' in first.detail
    assert all(isinstance(other, list) and len(other) == 4 for other in others)


def prompts_of(pair: Pair, **synthesis: object) -> list[str]:
    return [task.request.prompt for task in tasks(config(**synthesis), [pair])]


def test_what_a_small_model_is_shown() -> None:
    pair = Pair("1", "the query\nof two lines", "word " * 100)
    one, two, three, four = prompts_of(pair, prompt_style="per-grade")
    assert [pair.positive[:20] in prompt for prompt in (one, two, three, four)] == [False, True, True, False]
    assert ["the query of two lines" in prompt for prompt in (one, two, three, four)] == [True, False, False, False]
    assert one.endswith("Query: the query of two lines\nOff-topic passage:")
    assert four.endswith("\nword ->")  # nothing is shared with the query, so a long word is exchanged


def test_a_prompt_holds_nothing_that_a_server_chokes_on() -> None:
    pair = Pair("1", "NUL \0 here", "and \0 there")
    assert "\0" not in "".join(prompts_of(pair, prompt_style="per-grade") + prompts_of(pair, prompt_style="all-grades"))


def test_domain_language_and_examples_reach_the_prompt() -> None:
    example = {"query": "an own query", "positive": "an own positive", "grade_2": "an own easy one"}
    own = {"domain": "heat pumps", "language": "German", "examples": [example]}
    (prompt,) = prompts_of(PAIRS[0], prompt_style="all-grades", **own)
    assert all(text in prompt for text in ("heat pumps", "in German", "an own query", "grade_2: an own easy one"))
    one, two, _, _ = prompts_of(PAIRS[0], prompt_style="per-grade", **own)
    assert "heat pumps" in one and "an own easy one" not in one and "museum" in one
    assert "Passage on another subject of the same field: an own easy one" in two and "Portugal" not in two


def test_a_grade_that_is_mined_is_not_asked_for() -> None:
    sources = {"1": "mined", "3": "llm", "4": "both"}
    grades = [
        c.grade for outcome in map(make, tasks(config(prompt_style="per-grade", sources=sources))) for c in outcome
    ]
    assert grades == [2, 3, 4] * len(PAIRS)
    assert requests_each(config(prompt_style="per-grade", sources=sources)) == 3
    assert requests_each(config(prompt_style="all-grades", sources=dict.fromkeys("1234", "mined"))) == 0


def make(task: Prompted[list[Candidate]]) -> list[Candidate]:
    return task.parse(Answer("x"))


def test_a_repair_asks_for_the_missing_grades_alone_and_otherwise() -> None:
    settings = config(prompt_style="per-grade")
    first = {task.request.key for task in tasks(settings)}
    repairs = list(plan_repairs(settings, lambda: PAIRS, {"1": [4], "3": [1, 4]}, MODEL, 1))
    assert [(task.input, task.request.version.split("@")[0][-1]) for task in repairs] == [
        ("1", "4"),
        ("3", "1"),
        ("3", "4"),
    ]
    assert first.isdisjoint(task.request.key for task in repairs)
    asked = [task.request.prompt for task in tasks(settings)]
    assert all(task.request.prompt not in asked for task in repairs if task.request.version.endswith("4"))
    (together,) = plan_repairs(config(prompt_style="all-grades"), lambda: PAIRS, {"3": [1, 4]}, MODEL, 2)
    assert '"grade_2"' not in together.request.prompt and '"grade_4"' in together.request.prompt


def test_records_say_who_wrote_what(tmp_path: Path) -> None:
    (first, *_) = outcomes(tmp_path, config())
    assert isinstance(first, list)
    assert first == [Candidate("0", 1, first[0].text, "llm", "scripted", first[0].prompt)]
    assert first[0].prompt is not None and first[0].prompt.startswith("grade_1@")


def test_the_answer_limit_does_not_ask_anew() -> None:
    short, long = tasks(config())[0].request, tasks(config(answer_tokens=500))[0].request
    assert long.max_tokens == 500 != short.max_tokens
    assert long.key == short.key
