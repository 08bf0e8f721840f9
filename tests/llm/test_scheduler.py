"""The scheduler under a simulated clock: hypothesis draws faults, outages, caps and moments of death."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.errors import ConfigError, LLMError
from multigrain.llm.ledger import Tally
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from tests.llm.clock import simulate
from tests.llm.runs import budget, new_store, reason, run, state
from tests.llm.world import FakeServer, World, inputs

FATES = ["good", "error", "cut", "html", "busy", "rejected", "garbled", "truncated", "declined", "silent about usage"]

plans = st.lists(st.lists(st.sampled_from(FATES), max_size=10), min_size=1, max_size=14)

outages = st.lists(st.tuples(st.floats(0, 60), st.floats(0.1, 100)), max_size=2)


@st.composite
def servers(draw: st.DrawFn) -> Callable[[World], list[FakeServer]]:
    kinds = draw(
        st.lists(
            st.tuples(st.floats(0.01, 5), outages, st.booleans(), st.none() | st.integers(1, 4)), min_size=1, max_size=3
        )
    )
    return lambda world: [
        FakeServer(world, latency, tuple((at, at + length) for at, length in out), half_dead, capacity)
        for latency, out, half_dead, capacity in kinds
    ]


@settings(max_examples=200)
@given(plans, servers(), st.integers(1, 6), st.booleans())
def test_no_input_is_lost_or_doubled(
    planned: list[list[str]], make: Callable[[World], list[FakeServer]], concurrency: int, twice: bool
) -> None:
    """Whatever happens, each input ends with an answer or a reason, and no answer is paid for twice."""
    world = World({f"p{i}": plan for i, plan in enumerate(planned)})
    asked = inputs(len(planned)) * (2 if twice else 1)
    with new_store() as store:
        fakes = make(world)
        tally = Tally()
        try:
            simulate(answer_all(fakes, asked, store, budget(store), concurrency, tally))
        except LLMError:  # all inputs were bad, or nobody answered for a quarter of an hour: the rest is still to do
            assert tally.answered == 0 or isinstance(fakes, list)
            assert all(state(store, prompted) in ("todo", "ok", "parked") for prompted in asked)
            return
        states = {prompted.request.prompt: state(store, prompted) for prompted in asked}
        assert set(states.values()) <= {"ok", "parked"}
        times = 2 if twice else 1
        assert tally.answered == times * sum(value == "ok" for value in states.values())
        assert tally.parked == times * sum(value == "parked" for value in states.values())
        assert tally.under_way == 0
        assert max(world.answered.values(), default=0) <= 1
        assert tally.sent == len(world.moments) == store.spent().calls
        assert all(fake.most_under_way <= concurrency and fake.entered == 0 for fake in fakes)
        assert store.spent().tokens == budget(store).spent.tokens >= world.billed
        assert "under way" not in [row[0] for row in store._database.execute("select state from calls")]


@settings(max_examples=200)
@given(
    plans,
    servers(),
    st.integers(1, 6),
    st.none() | st.integers(0, 30),
    st.none() | st.integers(0, 2000),
    st.none() | st.floats(0, 3),
)
def test_caps_are_never_passed(
    planned: list[list[str]],
    make: Callable[[World], list[FakeServer]],
    concurrency: int,
    requests: int | None,
    tokens: int | None,
    cost: float | None,
) -> None:
    world = World({f"p{i}": plan for i, plan in enumerate(planned)})
    caps: dict[str, Any] = {"max_requests": requests, "max_tokens": tokens, "max_cost": cost}
    with new_store() as store:
        for _ in range(2):  # the second command has no more to spend than the first one left
            try:
                run(make(world), inputs(len(planned)), store, concurrency, **caps)
            except LLMError:
                return
            assert requests is None or len(world.moments) <= requests
            assert tokens is None or world.billed <= store.spent().tokens <= tokens
            assert cost is None or store.spent().cost <= cost + 1e-9
            if None in (requests, tokens, cost):
                continue
            for prompted in inputs(len(planned)):
                if reason(store, prompted.request.prompt) == "budget":
                    store.put_back(prompted.request.key)


@settings(max_examples=100)
@given(plans, st.integers(1, 6), st.lists(st.floats(0, 10), min_size=1, max_size=4))
def test_killed_at_any_moment(planned: list[list[str]], concurrency: int, deaths: list[float]) -> None:
    """After a kill -9, at most the requests that were under way are paid for twice, and all is as if undisturbed."""
    plans_of = {f"p{i}": plan for i, plan in enumerate(planned)}
    asked = inputs(len(planned))
    with tempfile.TemporaryDirectory() as folder:
        world = World(plans_of)
        path = Path(folder, "store.sqlite")
        for death in deaths:
            store = AnswerStore(path)
            under_way = _killed(world, asked, store, concurrency, death)
            before = Counter(world.answered)
            store._database.close()  # without commit, as the kernel does it
            with AnswerStore(path) as again:
                unknown = [p for p in before if before[p] and state(again, *inputs([p])) != "ok"]
            assert len(unknown) <= under_way <= concurrency
        with AnswerStore(path) as store:
            try:
                run(FakeServer(world), asked, store, concurrency)
            except LLMError:
                return
            assert all(state(store, prompted) in ("ok", "parked") for prompted in asked)


def _killed(world: World, asked: list[Prompted[Any]], store: AnswerStore, concurrency: int, death: float) -> int:
    """Run until the moment of death; returns how many requests were under way then."""
    tally = Tally()

    async def work() -> None:
        asyncio.get_running_loop().call_later(death, _die, store)
        await answer_all([FakeServer(world)], asked, store, budget(store), concurrency, tally)

    with suppress(LLMError, sqlite3.ProgrammingError):  # whose store is gone
        simulate(work())
    return concurrency


def _die(store: AnswerStore) -> None:
    store._database.rollback()
    store._database.close()


def test_nothing_to_ask_enters_no_server() -> None:
    with new_store() as store:
        run(FakeServer(World()), inputs(5), store)

        class Absent(FakeServer):
            async def __aenter__(self) -> FakeServer:
                raise AssertionError("nobody needs it")

        assert run(Absent(World()), inputs(5), store).sent == 0


def test_when_an_input_cannot_be_read_what_is_under_way_is_kept() -> None:
    world = World()

    def stream() -> Iterator[Prompted[Any]]:
        yield from inputs(30)
        raise ValueError("line 31 is damaged")

    with new_store() as store:
        with pytest.raises(ValueError, match="line 31"):
            simulate(answer_all([FakeServer(world)], stream(), store, budget(store), 16))
        assert sum(state(store, prompted) == "ok" for prompted in inputs(30)) == sum(world.answered.values()) > 0
        assert store.spent().tokens == world.billed


def test_one_of_several_servers_is_away_at_the_start() -> None:
    class Absent(FakeServer):
        async def __aenter__(self) -> FakeServer:
            raise ConfigError("llm.base_url", ["nobody there"])

    with new_store() as store:
        assert run([Absent(World()), FakeServer(World())], inputs(20), store).answered == 20
    with new_store() as store, pytest.raises(ConfigError, match="nobody there"):
        run([Absent(World()), Absent(World())], inputs(20), store)


def test_nothing_is_left_uncommitted_while_a_server_is_waited_for() -> None:
    """Others may want to look at the store."""
    world = World()
    seen: list[bool] = []

    class Watching(FakeServer):
        store: AnswerStore

        async def complete(self, request: Any) -> Any:
            seen.append(self.store._database.in_transaction)
            return await super().complete(request)

        async def is_alive(self) -> bool:
            seen.append(self.store._database.in_transaction)
            return await super().is_alive()

    with new_store() as store:
        server = Watching(world, outages=((1.0, 20.0),), half_dead=True)
        server.store = store
        run(server, inputs(100), store, concurrency=1)
    assert not any(seen)
