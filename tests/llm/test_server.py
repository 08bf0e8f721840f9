import asyncio
from typing import Any

from multigrain.errors import LLMUnavailable
from tests.llm.runs import new_store, run
from tests.llm.world import FakeServer, World, inputs


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
    """A limit that is cut at each 429 comes to a standstill although only 5 % of the requests meet one."""
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


def test_a_server_that_asks_everybody_to_wait_is_left_alone() -> None:
    world = World({f"p{i}": ["busy"] for i in range(1000)})
    with new_store() as store:
        run(FakeServer(world, retry_after=60.0), inputs(1000), store, concurrency=64)
    early = [moment for moment, _ in world.moments if moment < 60]
    assert len(early) <= 2 * 64
