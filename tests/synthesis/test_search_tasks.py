import random
import time
from collections import Counter

import pytest

from multigrain.config import Config
from multigrain.errors import LLMReplyError
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer
from multigrain.records import Pair
from multigrain.synthesis.parse import TaskList, WrittenPair
from multigrain.synthesis.search_tasks import (
    AT_ONCE,
    KINDS,
    ROUNDS,
    SearchTask,
    choose_tasks,
    plan_brainstorm,
    plan_pairs,
)

ANIMALS = "cats dogs birds fish horses sheep goats bees wolves bears whales frogs".split()
VERBS = "Identify Retrieve Compare Rank Count Summarise".split()


def config(seed: int = 7, **synthesis: object) -> Config:
    synthesis = {"mode": "tasks", "domains": ["cooking", "law"], **synthesis}
    return Config.model_validate({"name": "x", "seed": seed, "data": {}, "synthesis": synthesis})


def brainstorm(settings: Config) -> list[Prompted[list[SearchTask]]]:
    return list(plan_brainstorm(settings, "a model"))


def pairs(settings: Config, tasks: list[SearchTask]) -> list[Prompted[list[Pair]]]:
    return list(plan_pairs(settings, tasks, "a model"))


# Brainstorming


def test_each_field_and_kind_is_asked_for_and_more_than_is_wanted() -> None:
    planned = brainstorm(config(tasks=40))
    found = [task.parse(Answer(TaskList(tasks=["Do."]).model_dump_json()))[0] for task in planned]
    turns = Counter((task.field, task.kind) for task in found)
    assert set(turns) == {(field, kind.name) for field in ("cooking", "law") for kind in KINDS}
    assert len(set(turns.values())) == 1
    assert len(planned) * AT_ONCE >= 40 * ROUNDS


def test_even_one_task_is_asked_for_in_every_field() -> None:
    assert len(brainstorm(config(tasks=1))) == 2 * len(KINDS)


def test_no_two_requests_of_a_run_have_one_key() -> None:
    settings = config(tasks=200, pairs_per_task=5)
    tasks = [
        SearchTask(f"{verb} {animal}.", kind.name, "law") for verb in VERBS for animal in ANIMALS for kind in KINDS
    ]
    # One text under two kinds is two tasks.
    planned: list[Prompted[list[SearchTask]] | Prompted[list[Pair]]] = [*brainstorm(settings), *pairs(settings, tasks)]
    assert len({task.request.key for task in planned}) == len(planned) > 1000
    assert len({task.input for task in planned}) == len(planned)


def test_field_kind_and_domain_reach_the_prompt() -> None:
    planned = brainstorm(config(domains=["Swiss\nlaw of $5 {x}"], domain="Contracts", tasks=1))
    for task, kind in zip(planned, KINDS, strict=True):
        prompt = task.request.prompt
        assert "in this field: Swiss law of $5 {x}." in prompt
        assert f"Each task finds {kind.finds}." in prompt
        assert "The texts are about: Contracts\n" in prompt
        assert '{"tasks": ["...", "..."]}' in prompt


# Choosing


def test_what_is_said_twice_is_taken_once() -> None:
    found = [
        SearchTask("Find a recipe for a cake.", "short-long", "cooking"),
        SearchTask("find a  RECIPE for a cake", "short-long", "cooking"),
        SearchTask("Find the recipe for a cake.", "long-short", "cooking"),
        SearchTask("Find a recipe for a cake.", "short-long", "law"),
        SearchTask("Name the wine that goes with a dish.", "short-long", "cooking"),
    ]
    # Of another field it is another task: its pairs are of that field.
    assert choose_tasks(found, 10) == [found[0], found[3], found[4]]


def test_the_tasks_taken_are_balanced_over_fields_and_kinds() -> None:
    draw = random.Random(3)
    found = [
        SearchTask(" ".join(draw.sample(VERBS + ANIMALS, 8)), kind.name, field)
        for field, kind, many in (("cooking", KINDS[0], 6), ("cooking", KINDS[1], 6), ("law", KINDS[0], 2))
        for _ in range(many)
    ]
    places = Counter((task.field, task.kind) for task in choose_tasks(found, 6))
    assert set(places.values()) == {2}
    # Where a kind has no more, others fill its places.
    taken = choose_tasks(found, 10)
    assert Counter((task.field, task.kind) for task in taken)["law", KINDS[0].name] == 2
    assert len(taken) == 10
    assert len(choose_tasks(found, 100)) == len(choose_tasks(found, 14)) == 14


def test_many_tasks_are_chosen_in_no_time() -> None:
    """500 of 1,500 take about 0.2 s; they took 32 s when each was laid beside all others letter by letter."""
    draw = random.Random(3)
    found = [
        SearchTask(f"{draw.choice(VERBS)} reports on the {' and '.join(draw.sample(ANIMALS, 3))}.", kind.name, "law")
        for _ in range(300)
        for kind in KINDS
    ]
    start = time.process_time()
    taken = choose_tasks(found, 500)
    assert time.process_time() - start < 5
    assert 10 < len(taken) <= 500


def test_nothing_found_is_nothing_taken() -> None:
    assert choose_tasks([], 5) == []


# Pairs


def test_a_pair_carries_its_task() -> None:
    tasks = [SearchTask("Find a cake.", "symmetric", "cooking"), SearchTask("Name a law.", "long-short", "law")]
    planned = pairs(config(pairs_per_task=2), tasks)
    made = [
        task.parse(Answer(WrittenPair(query=f"q{n}", positive=f"p{n}").model_dump_json()))[0]
        for n, task in enumerate(planned)
    ]
    assert made == [
        Pair("1-1", "q0", "p0", "cooking", "Find a cake.", "symmetric"),
        Pair("1-2", "q1", "p1", "cooking", "Find a cake.", "symmetric"),
        Pair("2-1", "q2", "p2", "law", "Name a law.", "long-short"),
        Pair("2-2", "q3", "p3", "law", "Name a law.", "long-short"),
    ]
    assert [task.input for task in planned] == [pair.id for pair in made]


def test_task_kind_and_languages_reach_the_prompt() -> None:
    kind = next(kind for kind in KINDS if kind.name == "long-short")
    settings = config(language="German", query_language="French", pairs_per_task=1, domain="Contracts")
    (task,) = pairs(settings, [SearchTask("Find $5 {x}.", kind.name, "law")])
    prompt = task.request.prompt
    assert "has this task: Find $5 {x}.\n" in prompt
    assert f"{kind.query}, in French, and {kind.positive}, in German," in prompt
    assert "The texts are about: Contracts\n" in prompt
    (plain,) = pairs(config(pairs_per_task=1), [SearchTask("Find it.", kind.name, "law")])
    assert plain.request.prompt.count("in English") == 2


def test_how_hard_a_pair_is_hangs_on_the_seed() -> None:
    tasks = [SearchTask(f"Find {animal}.", "symmetric", "law") for animal in ANIMALS]

    def told(seed: int) -> list[str]:
        prompts = [task.request.prompt for task in pairs(config(seed), tasks)]
        return [prompt.partition("Both need ")[2].partition(" to be")[0] for prompt in prompts]

    assert told(7) == told(7) != told(8)
    assert len(set(told(7))) == 3


@pytest.mark.parametrize(
    "text",
    [
        "no idea",
        "{}",
        '{"tasks": []}',
        '{"tasks": ["  "]}',
        '{"tasks": "Find it."}',
        '{"tasks": [1]}',
        '{"tasks": ["a"',
    ],
)
def test_a_list_of_tasks_that_is_none_is_not_read(text: str) -> None:
    with pytest.raises(LLMReplyError):
        brainstorm(config())[0].read(Answer(text))


@pytest.mark.parametrize(
    "text", ["[]", '{"query": "q"}', '{"query": "", "positive": "p"}', '{"query": "q", "positive": 1}']
)
def test_a_pair_that_is_none_is_not_read(text: str) -> None:
    (task,) = pairs(config(pairs_per_task=1), [SearchTask("Find it.", "symmetric", "law")])
    with pytest.raises(LLMReplyError):
        task.read(Answer(text))
    (pair,) = task.read(Answer('```json\n{"query": " a\\nb ", "positive": "c"}\n```'))
    assert (pair.query, pair.positive) == ("a b", "c")
