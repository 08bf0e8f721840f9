import pytest

from multigrain.errors import LLMError, LLMRefused, LLMReplyError
from multigrain.llm import job
from tests.llm.runs import new_store, reason, reasons, run
from tests.llm.world import FakeServer, World, inputs


def test_inputs_that_always_fail_are_parked_also_at_the_end() -> None:
    world = World({f"p{i}": ["error"] * 99 for i in range(280, 300)})
    with new_store() as store:
        tally = run(FakeServer(world), inputs(300), store)
        assert (tally.answered, tally.parked) == (280, 20)
        assert reasons(store) == {"transport": 20}
        assert max(world.sent.values()) <= 2 * job.TRANSPORT_TRIES
        assert max(moment for moment, _ in world.moments) < 300


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


def test_too_long_prompts_are_no_sign_of_a_wrong_key() -> None:
    world = World({**{f"p{i}": ["rejected"] for i in range(30, 50)}, "p50": ["forbidden"]})
    with new_store() as store:
        tally = run(FakeServer(world), inputs(100), store)
        assert (tally.answered, tally.parked) == (80, 20)
