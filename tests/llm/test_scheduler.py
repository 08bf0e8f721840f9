"""The scheduler under a simulated clock: hypothesis draws faults, outages, caps and moments of death."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.config import LLMSection
from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from multigrain.llm import job, job_queue, revival
from multigrain.llm.budget import Budget, Prices, Usage
from multigrain.llm.ledger import Tally
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from tests.llm.clock import simulate
from tests.llm.world import FakeServer, World, inputs

FATES = ["good", "error", "cut", "html", "busy", "rejected", "garbled", "truncated", "declined", "silent about usage"]
PRICES = Prices(0.001, 0.01)


@contextmanager
def new_store() -> Iterator[AnswerStore]:
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder, "store.sqlite")) as store:
        yield store


def budget(store: AnswerStore, **caps: float) -> Budget:
    return Budget(LLMSection.model_validate(caps), PRICES, store.spent())


def run(
    servers: FakeServer | list[FakeServer],
    asked: list[Prompted[Any]],
    store: AnswerStore,
    concurrency: int = 4,
    **caps: float,
) -> Tally:
    fakes = servers if isinstance(servers, list) else [servers]
    return simulate(answer_all(fakes, asked, store, budget(store, **caps), concurrency))


def state(store: AnswerStore, prompted: Prompted[Any]) -> str:
    return (store.state(prompted.request.key) or ("todo", 0))[0]


def reason(store: AnswerStore, prompt: str) -> str:
    (prompted,) = inputs([prompt])
    parked = store.parked(prompted.request.key)
    return parked[0] if parked else state(store, prompted)


def reasons(store: AnswerStore) -> dict[str, int]:
    rows = store._database.execute("select reason, count(*) from inputs where state = 'parked' group by 1")
    return dict(rows.fetchall())


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


@settings(deadline=None, max_examples=200)
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


@settings(deadline=None, max_examples=200)
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


@settings(deadline=None, max_examples=100)
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


def test_a_dead_server_burns_no_attempt() -> None:
    """Dead for 30 s in the middle, as if pulled from the network: all inputs are answered, no try is lost."""
    world = World()
    with new_store() as store:
        tally = run(FakeServer(world, outages=((2.0, 32.0),)), inputs(400), store, concurrency=8)
        assert (tally.answered, tally.parked) == (400, 0)
        in_outage = Counter(prompt for moment, prompt in world.moments if 2 <= moment < 32)
        assert sum(in_outage.values()) < 40  # those under way, and the few until the breaker opened
        last = max(moment for moment, _ in world.moments)
        assert last < 32 + revival.LONGEST_PAUSE + 5


def test_a_server_that_only_looks_alive_burns_no_attempt() -> None:
    world = World()
    with new_store() as store:
        tally = run(FakeServer(world, outages=((2.0, 200.0),), half_dead=True), inputs(400), store, concurrency=8)
        assert (tally.answered, tally.parked) == (400, 0)


def test_of_two_servers_one_may_die() -> None:
    world = World()
    fakes = [FakeServer(world, outages=((1.0, 10_000.0),)), FakeServer(world)]
    with new_store() as store:
        tally = run(fakes, inputs(200), store)
        assert (tally.answered, tally.parked) == (200, 0)
        assert max(moment for moment, _ in world.moments) < 60


def test_the_least_loaded_server_gets_the_next_request() -> None:
    """The one that is three times as fast answers about three times as many."""
    worlds = World(), World()
    fakes = [FakeServer(worlds[0], latency=0.1), FakeServer(worlds[1], latency=0.3)]
    with new_store() as store:
        run(fakes, inputs(400), store)
    fast, slow = (len(world.moments) for world in worlds)
    assert 2.5 < fast / slow < 3.5


def test_inputs_that_always_fail_are_parked_also_at_the_end() -> None:
    world = World({f"p{i}": ["error"] * 99 for i in range(280, 300)})
    with new_store() as store:
        tally = run(FakeServer(world), inputs(300), store)
        assert (tally.answered, tally.parked) == (280, 20)
        assert reasons(store) == {"transport": 20}
        assert max(world.sent.values()) <= 2 * job.TRANSPORT_TRIES
        assert max(moment for moment, _ in world.moments) < 300


def test_a_waiting_input_holds_no_slot() -> None:
    world = World({"p0": ["busy"]})
    with new_store() as store:
        run(FakeServer(world, retry_after=100.0), inputs(20), store, concurrency=2)
    first, *others, last = world.moments
    assert first[1] == last[1] == "p0"
    assert last[0] >= 100  # Retry-After is obeyed
    assert max(moment for moment, _ in others) < 10


def test_concurrency_follows_what_the_server_takes() -> None:
    world = World()
    server = FakeServer(world, capacity=4)
    with new_store() as store:
        tally = run(server, inputs(1000), store, concurrency=64)
        assert tally.answered == 1000
        seconds = max(moment for moment, _ in world.moments)
        assert seconds < 1.6 * 1000 * 0.1 / 4
        assert tally.sent < 2.5 * 1000


def test_a_few_refusals_for_overload_cut_nothing() -> None:
    """T19 of our peers: a cut for each 429 brings one of them to a standstill under 5 % of them."""
    world = World({f"p{i}": ["busy"] for i in range(0, 2000, 20)})
    with new_store() as store:
        run(FakeServer(world), inputs(2000), store, concurrency=64)
    assert max(moment for moment, _ in world.moments) < 2000 * 0.1 / 64 / 0.6


def test_a_strict_rate_limit_is_endured() -> None:
    """One request in four seconds, whatever one asks."""

    class Strict(FakeServer):
        free = 0.0

        async def complete(self, request: Any) -> Any:
            now = asyncio.get_running_loop().time()
            if now < self.free:
                self.world.moments.append((now, request.prompt))
                raise LLMUnavailable("busy", 429)
            self.free = now + 4
            return await super().complete(request)

    with new_store() as store:
        tally = run(Strict(World()), inputs(50), store, concurrency=16)
        assert (tally.answered, tally.parked) == (50, 0)
        assert tally.sent < 50 * 12


@pytest.mark.parametrize("retry_after", [0.0, 0.001, None])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_at_its_start_is_waited_for(retry_after: float | None, status: int) -> None:
    """`Retry-After: 0` is no leave to ask a thousand times in a second."""

    class Starting(FakeServer):
        async def complete(self, request: Any) -> Any:
            if (now := asyncio.get_running_loop().time()) < 20:
                self.world.moments.append((now, request.prompt))
                raise LLMUnavailable("starting", status, retry_after=retry_after)
            return await super().complete(request)

    world = World()
    with new_store() as store:
        tally = run(Starting(world), inputs(40), store, concurrency=16)
        assert (tally.answered, tally.parked) == (40, 0)
    assert sum(moment < 20 for moment, _ in world.moments) < 300
    assert max(moment for moment, _ in world.moments) < 40


def test_a_bad_answer_is_asked_again_with_another_seed_and_a_cut_one_with_a_larger_limit() -> None:
    world = World({"p0": ["garbled", "garbled"], "p1": ["truncated", "truncated"]})
    with new_store() as store:
        assert run(FakeServer(world), inputs(2), store, concurrency=1).answered == 2
    seeds = [request.seed for request in world.requests if request.prompt == "p0"]
    assert len(set(seeds)) == 3
    assert seeds[0] == 0
    assert [r.max_tokens for r in world.requests if r.prompt == "p1"] == [8, 16, 32]
    assert {r.seed for r in world.requests if r.prompt == "p1"} == {0}


def test_each_budget_of_tries_is_its_own_and_each_end_has_its_reason() -> None:
    world = World(
        {
            "p0": ["garbled"] * 99,
            "p1": ["truncated"] * 99,
            "p2": ["declined"],
            "p3": ["rejected"],
            "p4": ["error"] * 99,
            "p5": [*["error", "garbled", "busy", "truncated"] * 2, "error"],
        }
    )
    with new_store() as store:
        run(FakeServer(world), inputs(100), store)
        found = [reason(store, f"p{i}") for i in range(7)]
    assert found == ["unreadable", "length", "declined", "rejected", "transport", "ok", "ok"]
    assert [world.sent[f"p{i}"] for i in range(4)] == [job.REPLY_TRIES, job.CUT_TRIES, 1, 1]


def test_what_was_cut_and_only_that_is_redone_under_a_larger_limit() -> None:
    world = World({"p0": ["truncated"] * 3})
    with new_store() as store:
        run(FakeServer(world), inputs(20), store)
        assert reason(store, "p0") == "length"
        sent = len(world.moments)
        run(FakeServer(world), inputs(20, max_tokens=32), store)  # had been tried: 8, 16, 32
        assert len(world.moments) == sent
        run(FakeServer(world), inputs(20, max_tokens=100), store)
        assert [(r.prompt, r.max_tokens) for r in world.requests[sent:]] == [("p0", 100)]
        assert reason(store, "p0") == "ok"


def test_parked_inputs_stay_parked_until_they_are_put_back() -> None:
    world = World({"p0": ["garbled"] * job.REPLY_TRIES})
    with new_store() as store:
        run(FakeServer(world), inputs(20), store)
        sent = len(world.moments)
        again = run(FakeServer(world), inputs(20), store)
        assert (again.sent, again.answered, again.parked) == (0, 19, 1)
        store.put_back(inputs(["p0"])[0].request.key)
        assert run(FakeServer(world), inputs(20), store).answered == 20
        assert len(world.moments) == sent + 1
        assert world.requests[-1].seed not in [r.seed for r in world.requests[:-1]]  # not the same question once more


def test_a_better_reader_finds_in_old_replies_what_the_first_one_missed() -> None:
    world = World({"p0": ["garbled"] * 99})
    with new_store() as store:
        run(FakeServer(world), inputs(20), store)
        assert reason(store, "p0") == "unreadable"
        sent = len(world.moments)
        better = [Prompted(prompted.input, prompted.request, lambda answer: answer.text) for prompted in inputs(20)]
        assert run(FakeServer(world), better, store).answered == 20
        assert len(world.moments) == sent


def test_nothing_to_ask_enters_no_server() -> None:
    with new_store() as store:
        run(FakeServer(World()), inputs(5), store)

        class Absent(FakeServer):
            async def __aenter__(self) -> FakeServer:
                raise AssertionError("nobody needs it")

        assert run(Absent(World()), inputs(5), store).sent == 0


@pytest.mark.parametrize("before", [0, 5])
def test_a_refused_key_stops_everything(before: int) -> None:
    world = World({f"p{i}": ["forbidden"] * 99 for i in range(before, 200)})
    with new_store() as store:
        with pytest.raises(LLMRefused, match="wrong key"):
            run(FakeServer(world), inputs(200), store)
        assert reasons(store) == {}  # nobody's fault but the key's
    assert len(world.moments) < 60


def test_one_refusal_in_the_middle_stops_nothing() -> None:
    world = World({"p50": ["forbidden"]})
    with new_store() as store:
        assert run(FakeServer(world), inputs(100), store).answered == 100


@pytest.mark.parametrize(("fate", "error"), [("garbled", LLMReplyError), ("rejected", LLMRefused), ("html", LLMError)])
def test_what_never_works_is_not_tried_to_the_end(fate: str, error: type[LLMError]) -> None:
    world = World({f"p{i}": [fate] * 99 for i in range(1000)})
    with new_store() as store:
        with pytest.raises(error):
            run(FakeServer(world), inputs(1000), store)
        assert reasons(store) == {}  # once it is mended, the same command asks them
    assert len(world.moments) < 200


def test_all_servers_dead_for_good() -> None:
    fakes = [FakeServer(World(), outages=((5.0, 1e9),)) for _ in range(2)]
    with new_store() as store:
        with pytest.raises(LLMUnavailable, match="the same command goes on"):
            run(fakes, inputs(1000), store)
        assert reasons(store) == {}


def test_inputs_are_taken_as_there_is_room() -> None:
    """Memory does not grow with the inputs: never are more taken than may be under way or waiting."""
    world = World({f"p{i}": ["error", "error"] for i in range(0, 3000, 3)})
    taken = 0
    most_ahead = 0

    def stream() -> Iterator[Prompted[Any]]:
        nonlocal taken, most_ahead
        for prompted in inputs(3000):
            taken += 1
            most_ahead = max(most_ahead, taken - len(world.answered))
            yield prompted

    with new_store() as store:
        tally = simulate(answer_all([FakeServer(world)], stream(), store, budget(store), 4))
        assert tally.answered == 3000
    assert most_ahead <= 4 * (job_queue.WAITING + 2)


def test_the_bound_covers_every_tokenizer() -> None:
    (prompted,) = inputs(["héllo 😀" * 50], max_tokens=10)
    with new_store() as store:
        bound = budget(store).bound(prompted.request)
    assert bound.prompt_tokens >= len(("héllo 😀" * 50).encode())
    assert bound == Usage(1, bound.prompt_tokens, 10, bound.prompt_tokens * 0.001 + 10 * 0.01)


def test_a_cap_and_a_busy_server_together_do_not_hang() -> None:
    """What did not fit waits for what is under way; when that only meets 429, it has to go on all the same."""
    world = World({f"p{i}": ["busy"] * 3 for i in range(6)})
    (prompted, *_) = inputs(1)
    with new_store() as store:
        cap = int(1.9 * budget(store).bound(prompted.request).tokens)
        tally = run(FakeServer(world), inputs(6), store, concurrency=2, max_tokens=cap)
        assert tally.answered + tally.parked == 6


def test_a_half_dead_server_at_the_end_costs_no_input() -> None:
    world = World()
    with new_store() as store:
        tally = run(FakeServer(world, outages=((0.15, 30.0),), half_dead=True), inputs(32), store, concurrency=16)
        assert (tally.answered, tally.parked) == (32, 0)


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


def test_too_long_prompts_are_no_sign_of_a_wrong_key() -> None:
    world = World({**{f"p{i}": ["rejected"] for i in range(30, 50)}, "p50": ["forbidden"]})
    with new_store() as store:
        tally = run(FakeServer(world), inputs(100), store)
        assert (tally.answered, tally.parked) == (80, 20)


def test_a_server_that_asks_everybody_to_wait_is_left_alone() -> None:
    world = World({f"p{i}": ["busy"] for i in range(1000)})
    with new_store() as store:
        run(FakeServer(world, retry_after=60.0), inputs(1000), store, concurrency=64)
    early = [moment for moment, _ in world.moments if moment < 60]
    assert len(early) <= 2 * 64


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
