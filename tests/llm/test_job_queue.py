from collections.abc import Iterator
from typing import Any

from multigrain.llm import job, job_queue
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.scheduler import answer_all
from tests.llm.clock import simulate
from tests.llm.runs import budget, new_store, reason, run
from tests.llm.world import FakeServer, World, inputs


def test_a_waiting_input_holds_no_slot() -> None:
    world = World({"p0": ["busy"]})
    with new_store() as store:
        run(FakeServer(world, retry_after=100.0), inputs(20), store, concurrency=2)
    first, *others, last = world.moments
    assert first[1] == last[1] == "p0"
    assert last[0] >= 100  # Retry-After is obeyed
    assert max(moment for moment, _ in others) < 10


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
