import asyncio
from pathlib import Path

import pytest

from multigrain.config import Config
from multigrain.errors import LLMReplyError
from multigrain.llm.client import Answer, Request
from multigrain.llm.scripted import MODEL, ScriptedClient
from multigrain.llm.store import AnswerStore
from multigrain.records import Candidate, Pair
from multigrain.synthesis.parse import parse_all_grades, parse_per_grade
from multigrain.synthesis.prompts import per_grade_prompt
from multigrain.synthesis.synthesize import Written, choose_pairs, plan_requests, write_candidates

PAIRS = [Pair(str(i), f"what is the word number {i} of the list", f"it is the word number {i}") for i in range(6)]


def config(**synthesis: object) -> Config:
    return Config.model_validate(
        {"name": "x", "data": {"pairs": "a"}, "llm": {"provider": "scripted"}, "synthesis": synthesis}
    )


class Fixed(ScriptedClient):
    """Answers the same to everything."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def complete(self, request: Request) -> Answer:
        return Answer(self.text, 1, 1)


def write(tmp_path: Path, settings: Config, client: ScriptedClient) -> Written:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        tasks = plan_requests(settings, PAIRS, MODEL)
        return asyncio.run(write_candidates(settings, tasks, client, store, lambda: None))


@pytest.mark.parametrize("style", ["per-grade", "all-grades"])
def test_every_pair_gets_every_grade(tmp_path: Path, style: str) -> None:
    written = write(tmp_path, config(prompt_style=style, grades=[1, 3, 4]), ScriptedClient())
    assert [(c.pair_id, c.grade) for c in written.candidates] == [(p.id, g) for p in PAIRS for g in (1, 3, 4)]
    assert written.requests == len(PAIRS) * (3 if style == "per-grade" else 1)
    assert not written.parked
    shared = [len(set(c.text.split()) & set(PAIRS[int(c.pair_id)].query.split())) for c in written.candidates]
    assert shared[0::3] < shared[1::3] < shared[2::3]  # the double follows the grade it is asked for


def test_limit_and_repeats(tmp_path: Path) -> None:
    written = write(tmp_path, config(limit=2, per_grade=3), ScriptedClient())
    assert written.requests == 2 * 3 * 4
    assert len({candidate.text for candidate in written.candidates}) == 2 * 3 * 4
    assert plan_requests(config(limit=0), PAIRS, MODEL) == []
    assert choose_pairs(PAIRS, 3, 1) == choose_pairs(PAIRS, 3, 1) != choose_pairs(PAIRS, 3, 2)


def test_what_cannot_be_read_is_parked_with_its_reason(tmp_path: Path) -> None:
    written = write(tmp_path, config(prompt_style="all-grades"), Fixed('{"grade_1": "only this one"}'))
    assert not written.candidates
    assert written.parked == [(pair.id, 'the answer has no text in "grade_2"') for pair in PAIRS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am sorry, I can not do that.", "no JSON object"),
        ('{"grade_1": "cut at the', "no JSON object"),
        ('{"grade_1": "a" "grade_2": "b"}', "is not JSON"),
        ('{"grade_1": " ", "grade_2": "b"}', 'no text in "grade_1"'),
        ('{"grade_1": ["a"], "grade_2": "b"}', 'no text in "grade_1"'),
        ('{"grade_1": __import__("os").system("true"), "grade_2": "b"}', "is not JSON"),
    ],
)
def test_bad_answers(text: str, expected: str) -> None:
    with pytest.raises(LLMReplyError, match=expected):
        parse_all_grades(text, [1, 2])


def test_json_may_stand_in_a_fence_or_between_words() -> None:
    fenced = 'Here you are:\n```json\n{"grade_1": "a  b",\n "grade_2": "c"}\n```\nAnything else?'
    assert parse_all_grades(fenced, [1, 2]) == {1: "a b", 2: "c"}
    assert parse_per_grade(" one \n two ") == "one two"
    with pytest.raises(LLMReplyError, match="wrote nothing"):
        parse_per_grade(" \n")


def test_easy_grades_do_not_see_the_positive() -> None:
    pair = Pair("1", "the query\nof two lines", "word " * 100)
    assert [pair.positive[:20] in per_grade_prompt(pair, grade) for grade in (1, 2, 3, 4)] == [False, False, True, True]
    assert "Query: the query of two lines\n" in per_grade_prompt(pair, 1)
    assert per_grade_prompt(pair, 4).endswith("Near-miss passage:")


def test_records_say_who_wrote_what(tmp_path: Path) -> None:
    first = write(tmp_path, config(), ScriptedClient()).candidates[0]
    assert first == Candidate("0", 1, first.text, "llm", "scripted", "per-grade-1")
