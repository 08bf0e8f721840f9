from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import Config
from multigrain.errors import LLMReplyError
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer
from multigrain.records import Document
from multigrain.synthesis.parse import read_query
from multigrain.synthesis.queries import SHOWN_WORDS, WrittenQuery, plan_queries

PASSAGES = [Document(f"d{number}", f"passage number {number} about tea") for number in range(24)]
TYPES = ["question", "situation", "keywords", "statement"]


def config(seed: int = 7, **synthesis: Any) -> Config:
    synthesis = {"mode": "corpus", **synthesis}
    return Config.model_validate({"name": "x", "seed": seed, "data": {"corpus": "a"}, "synthesis": synthesis})


def tasks(settings: Config, passages: list[Document] = PASSAGES) -> list[Prompted[list[WrittenQuery]]]:
    return list(plan_queries(settings, passages, "a model"))


def written(settings: Config, passages: list[Document] = PASSAGES) -> list[WrittenQuery]:
    return [task.parse(Answer("A query"))[0] for task in tasks(settings, passages)]


def only_prompt(**synthesis: Any) -> str:
    (task,) = tasks(config(**synthesis), PASSAGES[:1])
    return task.request.prompt


# Which type


def test_types_take_turns_from_a_start_that_differs_by_passage() -> None:
    found = written(config(queries_per_passage=6))
    starts = set()
    for place in range(0, len(found), 6):
        kinds = [query.kind for query in found[place : place + 6]]
        start = TYPES.index(kinds[0])
        assert kinds == [TYPES[(start + turn) % 4] for turn in range(6)]
        starts.add(start)
    assert starts == {0, 1, 2, 3}


def test_the_start_hangs_on_the_seed_and_the_passage_alone() -> None:
    kinds = {query.id: query.kind for query in written(config())}
    assert {query.id: query.kind for query in written(config(), PASSAGES[::-1])} == kinds
    assert {query.id: query.kind for query in written(config(seed=8))} != kinds


def test_no_other_types_than_those_wanted() -> None:
    assert {query.kind for query in written(config(query_types=["keywords"], queries_per_passage=2))} == {"keywords"}


# What is made of it


def test_several_queries_of_a_passage_have_ids_of_their_own() -> None:
    assert [query.id for query in written(config(queries_per_passage=2), PASSAGES[:2])] == [
        "d0#1",
        "d0#2",
        "d1#1",
        "d1#2",
    ]
    assert [query.id for query in written(config(), PASSAGES[:2])] == ["d0", "d1"]


def test_each_task_makes_its_own_record() -> None:
    """All tasks are planned before the first is made: what each closes over must be its own."""
    planned = tasks(config(queries_per_passage=2))
    for number, task in enumerate(planned):
        (query,) = task.parse(Answer(f"Query {number}"))
        assert (query.id, query.query, query.passage) == (task.input, f"Query {number}", PASSAGES[number // 2])
        assert query.prompt.startswith(f"query_{query.kind}@")
        assert task.request.version == f"queries {query.prompt}"


def test_no_two_requests_have_one_key() -> None:
    """One type, several times: the seed alone tells the queries of a passage apart."""
    planned = tasks(config(query_types=["question"], queries_per_passage=4))
    assert len({task.request.key for task in planned}) == len(planned) == 96


# What the prompt says


def test_language_domain_and_examples_reach_the_prompt() -> None:
    example = {"query": "Why does\ntea $5 {cool}?", "positive": "Because."}
    for kind in TYPES:
        told: dict[str, Any] = {"language": "German", "domain": "Tea,\nof all kinds", "examples": [example, example]}
        prompt = only_prompt(query_types=[kind], **told)
        assert ", in German" in prompt
        assert "\nThe texts are about: Tea, of all kinds\n" in prompt
        assert prompt.endswith("\nIt should look like these: Why does tea $5 {cool}? | Why does tea $5 {cool}?")
        assert prompt.startswith("passage number 0 about tea\n")


def test_queries_may_be_in_another_language_than_their_passages() -> None:
    assert ", in French" in only_prompt(language="German", query_language="French")
    assert "in the language of the text" in only_prompt()


def test_a_long_passage_is_cut_and_is_one_line() -> None:
    text = "\n".join(f"word{number}" for number in range(1000))
    (task,) = tasks(config(), [Document("d", text)])
    shown = task.request.prompt.splitlines()[0].split()
    assert shown == [f"word{number}" for number in range(SHOWN_WORDS)]
    (query,) = task.parse(Answer("A query"))
    assert query.passage.text == text


def test_a_prompt_of_the_user_is_asked_instead(tmp_path: Path) -> None:
    (tmp_path / "query_question.txt").write_text("About $passage")
    section: dict[str, Any] = {"prompts": str(tmp_path), "query_types": ["question"]}
    assert only_prompt(**section) == "About passage number 0 about tea"
    assert written(config(**section))[0].prompt != written(config(query_types=["question"]))[0].prompt


# What is read


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("This text highlights that green tea cools slowly.", "Green tea cools slowly."),
        ("The study found that tea cools.", "Tea cools."),
        ("The main finding of this text is that tea cools.", "Tea cools."),
        ("Here is a question: why does tea cool?", "Why does tea cool?"),
        ("Here's one:  why does tea cool?", "Why does tea cool?"),
        ("Sure! A short question: why does tea cool?", "Why does tea cool?"),
        ("Question: Why does tea cool?", "Why does tea cool?"),
        ("Keywords: tea, cup", "Tea, cup"),
        ('"Why does tea cool?"', "Why does tea cool?"),
        ("`tea cup`", "Tea cup"),
        ('Here is a question: "why does tea cool?"', "Why does tea cool?"),
        ("  why does\n tea   cool?  ", "Why does tea cool?"),
        ("Why does this text matter?", "Why does this text matter?"),
        ("Is there a question: of tea?", "Is there a question: of tea?"),
        ("The texture is soft", "The texture is soft"),
        ("élan vital", "Élan vital"),
        ("茶为什么会凉?", "茶为什么会凉?"),
    ],
)
def test_a_query_is_read_without_what_leads_to_it(text: str, query: str) -> None:
    assert read_query(Answer(text)) == query


@pytest.mark.parametrize(
    "text", ["", " \n ", '""', "Here is a question:", "This text highlights that ", "Question: ''"]
)
def test_where_nothing_is_left_there_is_no_query(text: str) -> None:
    with pytest.raises(LLMReplyError, match=r"wanted a query|the model wrote nothing"):
        read_query(Answer(text))


@given(st.text(st.sampled_from("aB \"'`\n:.é猫\ud800\0"), max_size=20))
def test_whatever_is_read_is_one_line_that_can_be_written(text: str) -> None:
    try:
        query = read_query(Answer(text))
    except LLMReplyError:
        return
    assert query
    assert query == " ".join(query.split())
    assert "\0" not in query
    query.encode()
