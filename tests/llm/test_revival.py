import asyncio
from collections import Counter
from typing import Any

import pytest

from multigrain.errors import LLMUnavailable
from multigrain.llm import revival
from tests.llm.runs import new_store, reasons, run
from tests.llm.world import FakeServer, World, inputs


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


def test_all_servers_dead_for_good() -> None:
    fakes = [FakeServer(World(), outages=((5.0, 1e9),)) for _ in range(2)]
    with new_store() as store:
        with pytest.raises(LLMUnavailable, match="run the same command to resume"):
            run(fakes, inputs(1000), store)
        assert reasons(store) == {}


def test_a_half_dead_server_at_the_end_costs_no_input() -> None:
    world = World()
    with new_store() as store:
        tally = run(FakeServer(world, outages=((0.15, 30.0),), half_dead=True), inputs(32), store, concurrency=16)
        assert (tally.answered, tally.parked) == (32, 0)
