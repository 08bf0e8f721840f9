"""Models that reason before they answer: what they answered, and how they are asked."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from multigrain.config import Config, LLMSection
from multigrain.errors import LLMReplyError, LLMTruncated
from multigrain.llm.budget import Budget, Usage
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Tally
from multigrain.llm.prompted_input import Parked, Prompted
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.reasoning import ROOM
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.generation.estimate import estimate_usage
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Candidate, Document, Pair
from multigrain.synthesis.negatives import plan_negatives
from multigrain.synthesis.parse import all_grades_reader, per_grade_reader, read_query
from multigrain.synthesis.queries import plan_queries
from multigrain.synthesis.search_tasks import SearchTask, plan_brainstorm, plan_pairs
from multigrain.synthesis.verdicts import plan_verdicts, read_rating
from tests.llm.clock import simulate
from tests.llm.world import FakeServer, World
from tests.mock_server import Behaviour, MockServer

FINAL = '{"grade_1": "final"}'
DRAFT = '{"grade_1": "draft"}'
THOUGHT = "Here is my thought process:\n"


def ask(reader: Any, kind: Any = "chat", stop: tuple[str, ...] = ()) -> Prompted[Any]:
    return Prompted("p", Request(kind, "p", "m", 8, 0.5, stop), reader)


def chat(text: str, finish_reason: str = "stop") -> Any:
    return ask(all_grades_reader((1,))).read(Answer(text, finish_reason=finish_reason))[1]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}</think>{FINAL}",
        f"<think>a set {{x}}</think>\n\n{FINAL}",
        f"<think>\n\n</think>\n\n{FINAL}",
        f"\n<THINK>a\nb</Think >\n```json\n{FINAL}\n```",
        f"Okay, {DRAFT} may do.\n</think>\n{FINAL}",
        f"{DRAFT}</think>{FINAL}",
        f"<thinking>{DRAFT}</thinking>{FINAL}",
        f"<thought>{DRAFT}</thought>{FINAL}",
        f"<reasoning>{DRAFT}</reasoning>{FINAL}",
        f'<reasoning effort="high">{DRAFT}</reasoning>{FINAL}',
        f"<seed:think>{DRAFT}</seed:think>{FINAL}",
        f"[THINK]{DRAFT}[/THINK]{FINAL}",
        f"◁think▷{DRAFT}◁/think▷{FINAL}",
        f"<|think|>{DRAFT}<|/think|>{FINAL}",
        f"<unused94>thought {DRAFT}<unused95>{FINAL}",
        f"<|channel>thought {DRAFT}<channel|>{FINAL}",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|><|begin_of_solution|>{FINAL}<|end_of_solution|>",
        f"<|START_THINKING|>{DRAFT}<|END_THINKING|><|START_RESPONSE|>{FINAL}<|END_RESPONSE|>",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{FINAL}<|return|>",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final <|constrain|>json<|message|>{FINAL}",
        f"<|channel|>final<|message|>{FINAL}",
        f"analysisWe write {DRAFT}assistantfinal{FINAL}",
        f"<think>a</think>{DRAFT}<think>b</think>{FINAL}",
        f"<think>a <think> b </think> {DRAFT}</think>{FINAL}",
        f"<think>{DRAFT}</think><answer>{FINAL}</answer>",
        f"Sure.\n<think>{DRAFT}</think>{FINAL}",
        f"Here is my thought process:\n\n{DRAFT}\n\nHere is my response:\n\n{FINAL}",
        f"Here's my thought process: {DRAFT} Here's my response: {FINAL}",
        f"<|inner_prefix|>{DRAFT}<|inner_suffix|>{FINAL}<|assistant_end|>",
        f"<reason>{DRAFT}</reason>{FINAL}",
        f"<analysis>{DRAFT}</analysis>{FINAL}",
        f"<thinking_process>{DRAFT}</thinking_process>{FINAL}",
        f"<internal_thoughts>{DRAFT}</internal_thoughts>{FINAL}",
        f"<inner_monologue>{DRAFT}</inner_monologue>{FINAL}",
        f"{FINAL}<think>was it right? {DRAFT}</think>",
        f"```json\n{FINAL}\n```\n<think>was it right? {DRAFT}</think>\n",
        f"<think>a</think>{FINAL}<think>was it right? {DRAFT}</think><|im_end|>",
    ],
)
def test_reasoning_is_no_answer(text: str) -> None:
    assert chat(text) == "final"


def test_no_reader_takes_it() -> None:
    thought = "<think>\nOkay, the user wants 3 things.\n</think>\n\n"
    assert ask(read_query, stop=("\n",)).read(Answer(f"{thought}what is tea\nI hope")) == "What is tea"
    assert ask(read_rating).read(Answer(f"{thought}2")) == 2
    assert ask(read_rating).read(Answer("Rating: 1? No.</think>Rating: 2")) == 2
    raw = ask(per_grade_reader(1), "completion", ("\n",))
    assert raw.read(Answer(f"{thought}A passage.\nQuery: more")) == {1: "A passage."}


@pytest.mark.parametrize(
    "text", ["<think>", "<think>half a", "[THINK]", "<|channel|>analysis<|message|>We", " <thought>a", THOUGHT]
)
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_reasoning_that_never_ends_was_cut(text: str, finish_reason: str) -> None:
    for reader, kind in ((all_grades_reader((1,)), "chat"), (read_query, "chat"), (per_grade_reader(1), "completion")):
        with pytest.raises(LLMTruncated):
            ask(reader, kind).read(Answer(text + DRAFT, finish_reason=finish_reason))
    with pytest.raises(LLMTruncated):
        chat(f"<think>a</think><think>{DRAFT}", finish_reason)


@pytest.mark.parametrize("before", ["Sure.\n", "Sure! ", "Okay", "Good: ", "<think>a</think> Well.\n\n", f"{DRAFT}\n"])
def test_words_before_reasoning_that_never_ends_are_no_answer(before: str) -> None:
    for reader in (all_grades_reader((1,)), read_query, read_rating):
        with pytest.raises(LLMTruncated):
            ask(reader, stop=("\n",)).read(Answer(f"{before}<think>Okay the user {DRAFT}"))


@pytest.mark.parametrize(
    "text",
    [
        "<|begin_of_box|>How long?<|end_of_box|>",
        "How long?<|im_end|>",
        "How long?<|im_end|>\n<|im_start|>user",
        "How long?</answer><|eot_id|>\n",
        "<answer>\nHow long?\n</answer>",
        "<think>a</think>\n<response>\nHow long?\n</response>\n",
        "Here is my response:\n\nHow long?",
    ],
)
def test_marks_around_an_answer_are_no_part_of_it(text: str) -> None:
    assert ask(read_query, stop=("\n",)).read(Answer(text)) == "How long?"
    if "think" not in text and "my response" not in text:
        assert not ask(read_query).shows_reasoning(Answer(text))


def test_a_chat_answer_that_reaches_its_limit_is_cut() -> None:
    for text in ("", "Okay, the user", FINAL, "2"):
        for reader in (all_grades_reader((1,)), read_query, read_rating):
            with pytest.raises(LLMTruncated):
                ask(reader).read(Answer(text, finish_reason="length"))
    with pytest.raises(LLMTruncated):  # all of it went into reasoning that the server keeps to itself
        ask(per_grade_reader(1), "completion").read(Answer(" ", finish_reason="length"))
    assert ask(per_grade_reader(1), "completion").read(Answer("cut, as", finish_reason="length")) == {1: "cut, as"}


@pytest.mark.parametrize(
    "passage",
    ["The <think> tag begins a thought.", "Put it into <think> and </think> tags.", "It ends in </think>, always."],
)
def test_texts_about_reasoning_stay_whole(passage: str) -> None:
    whole = json.dumps({"grade_1": passage})
    fenced = f"```json\n{whole}\n```"
    for text in (whole, fenced, f"<think>a </think> is wanted</think>{whole}", f"a</think>\n{whole}"):
        assert chat(text) == passage
    for text in (f"<think>a</think>Here it is:\n{fenced}", f"Here it is:\n{fenced}\nI hope it helps."):
        assert chat(text) == passage
    assert ask(per_grade_reader(1), "completion").read(Answer(passage)) == {1: passage}
    assert "tag begins" in ask(read_query).read(Answer("the <think> tag begins a thought?"))


def test_nothing_after_the_reasoning_is_no_answer() -> None:
    for reader in (all_grades_reader((1,)), read_query, read_rating):
        with pytest.raises(LLMReplyError):
            ask(reader).read(Answer(f"<think>{DRAFT}</think>"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer("", has_thoughts=True), "empty: the model wrote only reasoning.*llm.extra_body.*reasoning parser"),
        (Answer(f"<think>{DRAFT}</think>\n"), "empty: the model wrote only reasoning.*llm.extra_body"),
        (Answer("", finish_reason="tool_calls"), "empty: the model called a tool instead.*llm.extra_body"),
        (Answer(" \n"), "empty: the model wrote nothing"),
    ],
)
def test_a_message_says_why_an_answer_is_empty(answer: Answer, said: str) -> None:
    for reader in (all_grades_reader((1,)), read_query, read_rating):
        with pytest.raises(LLMReplyError, match=said):
            ask(reader).read(answer)


# How a model that thinks is asked


class Thinking(FakeServer):
    """Answers after so many tokens of thought, if it is neither stopped nor cut before."""

    thoughts = 100

    async def complete(self, request: Request) -> Answer:
        await super().complete(request)
        if "\n" in request.stop:
            return Answer("<think>")
        if request.max_tokens < self.thoughts:
            return Answer("<think>\nOkay, the", finish_reason="length")
        return Answer("<think>\nOkay, the user\n</think>\nGood\n")


def test_a_model_that_thinks_is_given_room_and_remembered(tmp_path: Path) -> None:
    world = World()
    asks = [Prompted(f"p{i}", Request("chat", f"p{i}", "m", 8, 0.5, ("\n",)), read_query) for i in range(40)]
    with AnswerStore(tmp_path / "store.sqlite") as store:
        server = Thinking(world)
        server.address = "there"
        budget = Budget(LLMSection(max_tokens=10**6), None, store.spent())
        assert simulate(answer_all([server], asks, store, budget, 4)).answered == 40
        first = [request for request in world.requests if request.stop]
        assert len(first) <= 2 * 4 and len(world.requests) == 40 + len(first)
        assert store.dialect("there", "m") == Dialect("text", thinks=True)
        answer = store.answer(asks[0].request.key)
        assert answer and answer.text.startswith("<think>")  # kept as it came


def test_what_thinking_may_take_counts_against_the_caps(tmp_path: Path) -> None:
    world = World()
    asks = [Prompted(f"p{i}", Request("chat", f"p{i}", "m", 8, 0.5), read_query) for i in range(40)]
    with AnswerStore(tmp_path / "store.sqlite") as store:
        server = Thinking(world)
        server.dialect = Dialect("text", thinks=True)
        budget = Budget(LLMSection(max_tokens=10_000), None, store.spent())
        tally = simulate(answer_all([server], asks, store, budget, 4))
        assert tally.answered + tally.parked == 40
        assert sum(request.max_tokens for request in world.requests) <= 10_000


def test_an_answer_that_an_earlier_version_could_read(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        task = ask(read_query)
        key, usage = task.request.key, Usage(1)
        call = store.begin_call(key, 8, usage)
        store.end_call(call, Answer("<think> Okay, the user"), usage)
        store.accept(key, call)
        outcome = task.outcome(store)
        assert isinstance(outcome, Parked) and outcome.reason == "length"


def test_an_estimate_knows_that_the_model_thinks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"name": "x", "output": str(tmp_path), "data": {"pairs": "p"}}
    settings["llm"] = {"provider": "endpoint", "model": "m", "base_url": "http://localhost:1/v1"}
    config = Config.model_validate(settings)
    tasks = [ask(read_query)]
    before = estimate_usage(config, tasks)
    with AnswerStore(RunDir(config.folder).store) as store:
        store.learn("http://localhost:1/v1", "m", Dialect(thinks=True))
    after = estimate_usage(config, tasks)
    assert before and after
    assert after.most.completion_tokens == before.most.completion_tokens + ROOM


def test_room_is_given_once() -> None:
    limits = [
        replace(ask(read_query).request, max_tokens=limit).suited(Dialect(thinks=True)).max_tokens for limit in LIMITS
    ]
    assert limits == [ROOM + 64, ROOM + 8000, 2 * ROOM + 128]


LIMITS = 64, 8000, 2 * ROOM + 128


class Reasoning(MockServer):
    """A server over HTTP whose model reasons, in one of the ways of the servers that are about."""

    def __init__(self, form: str, thoughts: int = 300) -> None:
        super().__init__(Behaviour(latency=0))
        self.form, self.thoughts = form, thoughts
        self.asked: list[dict[str, Any]] = []

    async def _complete(self, request: Any) -> Any:
        body = await request.json()
        self.asked.append(body)
        content = self._text(body, body["messages"][0]["content"]) if "response_format" in body else "2"
        thought = 'Okay, the user wants {"grade_1": "draft"}.\nI think'
        finish = "stop"
        if "\n" in body.get("stop", ()) and self.form != "hidden":
            thought, content = thought.splitlines()[0], ""
        elif body["max_tokens"] < self.thoughts:
            content, finish = "", "length"
        message: dict[str, Any] = {"content": content}
        match self.form:
            case "tags":
                message["content"] = f"<think>\n{thought}" + (f"\n</think>\n\n{content}" if content else "")
            case "only without a schema" if "response_format" in body:
                message["content"], finish = self._text(body, "x"), "stop"
            case "no opening" | "only without a schema":
                message["content"] = thought + (f"\n</think>\n\n{content}" if content else "")
            case "reasoning" | "reasoning_content":
                message[self.form] = thought
            case "parts":
                parts = [{"type": "thinking", "thinking": [{"type": "text", "text": thought}]}]
                message["content"] = [*parts, {"type": "text", "text": content}]
        details = {"reasoning_tokens": 40} if self.form == "hidden" else None
        usage = {"prompt_tokens": 10, "completion_tokens": 50, "completion_tokens_details": details}
        return web.json_response({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


FORMS = ["tags", "no opening", "only without a schema", "reasoning", "reasoning_content", "parts", "hidden"]


def all_kinds(config: Config) -> list[Prompted[Any]]:
    """Queries, brainstorming, pairs, negatives and verdicts, one or a few of each."""
    pair = Pair("1", "what is tea", "Tea is a drink made of leaves.")
    return [
        *plan_queries(config, [Document("d", pair.positive)], "mock"),
        *plan_brainstorm(config, "mock"),
        *plan_pairs(config, [SearchTask("Find tea.", "short-long", "tea")], "mock"),
        *plan_negatives(config, lambda: [pair], 1, "mock"),
        *plan_verdicts(config, pair, [Candidate("1", 1, "Coffee.", "llm", "mock", "p")], "mock"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_all_that_is_asked_is_answered_by_a_model_that_reasons(tmp_path: Path, form: str) -> None:
    settings: dict[str, Any] = {"name": "x", "data": {}, "llm": {"provider": "scripted"}}
    settings["synthesis"] = {"mode": "tasks", "domains": ["tea"], "tasks": 1, "pairs_per_task": 1}
    settings["synthesis"]["prompt_style"] = "all-grades"
    tasks = all_kinds(Config.model_validate(settings))
    server = Reasoning(form)

    async def work() -> Tally:
        async with server:
            budget = Budget(LLMSection(), None, store.spent())
            client = EndpointClient(server.url, "mock")
            return await answer_all([client], tasks, store, budget)

    with AnswerStore(tmp_path / "store.sqlite") as store:
        tally = asyncio.run(work())
        assert (tally.answered, tally.parked) == (len(tasks), 0)
        assert tally.sent == len(tasks) + (2 if form == "only without a schema" else 1)  # the probe
        assert not any("draft" in str(task.outcome(store)) or "Okay" in str(task.outcome(store)) for task in tasks)
        known = store.dialect(server.url, "mock")
    assert known and known.thinks
    assert not any("\n" in body.get("stop", ()) for body in server.asked)
