import asyncio
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multigrain.errors import LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm import scheduler
from multigrain.llm.client import Answer, Request
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "FIRST_WAIT", 0.0)


class Faulty:
    """Fails the n-th try of each prompt as its plan says, then answers."""

    def __init__(self, plans: dict[str, list[str]]) -> None:
        self.plans = plans
        self.tries: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0

    async def __aenter__(self) -> "Faulty":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def complete(self, request: Request) -> Answer:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        plan, attempt = self.plans.get(request.prompt, []), self.tries[request.prompt]
        self.tries[request.prompt] += 1
        fault = plan[attempt] if attempt < len(plan) else "ok"
        if fault == "unavailable":
            raise LLMUnavailable("busy")
        if fault == "garbled":
            raise LLMReplyError("garbled")
        if fault == "busy":
            raise LLMUnavailable("busy", 429)
        if fault == "refused":
            raise LLMRefused("too long", 400)
        if fault == "forbidden":
            raise LLMRefused("wrong key", 401)
        return Answer(f"answer to {request.prompt}", 2, 3)


def requests(count: int) -> list[Request]:
    return [Request("chat", str(i), "m", 5, 0.5) for i in range(count)]


faults = st.lists(st.sampled_from(["ok", "unavailable", "garbled", "refused"]), max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(faults, min_size=1, max_size=12), st.integers(1, 5), st.none() | st.integers(0, 20))
def test_each_request_ends_answered_or_parked(
    tmp_path_factory: pytest.TempPathFactory, plans: list[list[str]], concurrency: int, cap: int | None
) -> None:
    """No request is lost or answered twice, the cap and the concurrency are never passed."""
    asked = requests(len(plans))
    client = Faulty({str(i): plan for i, plan in enumerate(plans)})
    with AnswerStore(tmp_path_factory.mktemp("s") / "store.sqlite") as store:
        faults_planned = Counter(fault for plan in plans for fault in plan)
        try:
            outcome = asyncio.run(answer_all(client, asked, store, concurrency, cap))
        except LLMUnavailable:
            assert faults_planned["unavailable"] >= scheduler.DEAD_AFTER
            return
        except LLMRefused:
            assert faults_planned["refused"] > scheduler.REFUSED_AFTER
            return
        keys = {request.key for request in asked}
        assert outcome.answers.keys() | outcome.parked.keys() == keys
        assert not outcome.answers.keys() & outcome.parked.keys()
        assert outcome.sent == sum(client.tries.values())
        assert cap is None or outcome.sent <= cap
        assert client.most_under_way <= concurrency
        assert len(store) == len(outcome.answers)


def test_answers_in_the_store_are_not_asked_for_again(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        first = asyncio.run(answer_all(Faulty({}), requests(5), store))
        client = Faulty({})
        second = asyncio.run(answer_all(client, requests(7), store))
        assert sum(client.tries.values()) == second.sent == 2
        assert first.answers.items() <= second.answers.items()
        assert second.tokens == 7 * 5


def test_a_refused_key_stops_everything(tmp_path: Path) -> None:
    client = Faulty({str(i): ["forbidden"] for i in range(100)})
    with AnswerStore(tmp_path / "store.sqlite") as store, pytest.raises(LLMRefused, match="wrong key"):
        asyncio.run(answer_all(client, requests(100), store, concurrency=4))
    assert sum(client.tries.values()) <= 4


def test_a_dead_server_stops_everything_and_keeps_what_was_answered(tmp_path: Path) -> None:
    client = Faulty({str(i): ["unavailable"] * 99 for i in range(5, 100)})
    with AnswerStore(tmp_path / "store.sqlite") as store:
        with pytest.raises(LLMUnavailable, match="the same command goes on"):
            asyncio.run(answer_all(client, requests(100), store, concurrency=2))
        assert len(store) == 5


def test_a_busy_server_is_not_a_dead_one(tmp_path: Path) -> None:
    client = Faulty({str(i): ["busy"] * 3 for i in range(60)})
    with AnswerStore(tmp_path / "store.sqlite") as store:
        outcome = asyncio.run(answer_all(client, requests(60), store, concurrency=16))
    assert len(outcome.answers) == 60


def test_a_server_that_refuses_everything_is_not_asked_to_the_end(tmp_path: Path) -> None:
    client = Faulty({str(i): ["refused"] for i in range(100)})
    with AnswerStore(tmp_path / "store.sqlite") as store, pytest.raises(LLMRefused, match="too long"):
        asyncio.run(answer_all(client, requests(100), store, concurrency=2))
    assert sum(client.tries.values()) < 20
