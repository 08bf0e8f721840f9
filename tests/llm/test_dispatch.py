from tests.llm.runs import budget, new_store, run
from tests.llm.world import FakeServer, World, inputs


def test_the_least_loaded_server_gets_the_next_request() -> None:
    """The one that is three times as fast answers about three times as many."""
    worlds = World(), World()
    fakes = [FakeServer(worlds[0], latency=0.1), FakeServer(worlds[1], latency=0.3)]
    with new_store() as store:
        run(fakes, inputs(400), store)
    fast, slow = (len(world.moments) for world in worlds)
    assert 2.5 < fast / slow < 3.5


def test_a_cap_and_a_busy_server_together_do_not_hang() -> None:
    """What did not fit waits for what is under way; when that only meets 429, it has to go on all the same."""
    world = World({f"p{i}": ["busy"] * 3 for i in range(6)})
    (prompted, *_) = inputs(1)
    with new_store() as store:
        cap = int(1.9 * budget(store).bound(prompted.request).tokens)
        tally = run(FakeServer(world), inputs(6), store, concurrency=2, max_tokens=cap)
        assert tally.answered + tally.parked == 6
