import pytest

from multigrain.config import LLMSection
from multigrain.llm.budget import Budget, Prices, Usage, prices_of
from multigrain.llm.protocol import Answer, Request

ENDPOINT = {"provider": "endpoint", "base_url": "https://api.openai.com/v1", "model": "gpt-4o-mini"}


def section(**settings: object) -> LLMSection:
    return LLMSection.model_validate({**ENDPOINT, **settings})


def test_prices_come_from_the_section_the_place_or_the_list() -> None:
    assert prices_of(section(prices={"input": 1.0, "output": 2.0})) == Prices(1e-6, 2e-6)
    assert prices_of(section(base_url="http://localhost:8000/v1")) == Prices()
    assert prices_of(LLMSection()) == Prices()
    listed = prices_of(section())
    assert listed
    assert 0 < listed.input < listed.output < 1e-5
    assert prices_of(section(model="nobody-knows-me", base_url="https://llm.example/v1")) is None
    assert prices_of(section(base_url=["http://127.0.0.1:1/v1", "https://llm.example/v1"], model="x")) is None


def test_what_a_call_takes_by_hand() -> None:
    budget = Budget(section(max_cost=1.0), Prices(0.001, 0.01), Usage())
    bound = budget.bound(Request("chat", "abcd", "m", 50, 0.5, schema="{}"))
    assert bound == Usage(1, 4 + 2 + 64, 50, 0.070 + 0.50)
    assert budget.actual(Answer("x", 10, 5), bound) == Usage(1, 10, 5, 0.01 + 0.05)
    assert budget.actual(Answer("x"), bound) == bound  # the server does not tell: the worst is taken


@pytest.mark.parametrize(
    ("caps", "expected"),
    [
        ({}, None),
        ({"max_requests": 3}, None),
        ({"max_requests": 2}, "llm.max_requests = 2 leaves no room"),
        ({"max_tokens": 35}, None),
        ({"max_tokens": 34}, "llm.max_tokens = 34"),
        ({"max_cost": 3.5}, None),
        ({"max_cost": 3.4}, "llm.max_cost = 3.4"),
    ],
)
def test_a_cap_is_reached_by_what_is_reserved_too(caps: dict[str, float], expected: str | None) -> None:
    budget = Budget(section(**caps), Prices(), Usage(2, 10, 10, 2.0))
    obstacle = budget.obstacle(Usage(1, 10, 5, 1.5))
    assert (obstacle is None) if expected is None else (obstacle and expected in obstacle)


def test_the_bound_covers_every_tokenizer() -> None:
    prompt = "héllo 😀" * 50
    bound = Budget(LLMSection(), Prices(0.001, 0.01), Usage()).bound(Request("chat", prompt, "m", 10, 0.5))
    assert bound.prompt_tokens >= len(prompt.encode())
    assert bound == Usage(1, bound.prompt_tokens, 10, bound.prompt_tokens * 0.001 + 10 * 0.01)
