"""Caps on the cost of calls, which are never exceeded.

Before a call is sent, an upper bound of its cost is reserved: as many prompt tokens as the prompt has bytes (no
tokenizer produces more; a chat template adds a few), and as many completion tokens as the request allows. A call whose
bound would exceed a cap is not sent. When the answer arrives, its actual usage replaces the bound. A call that broke
off but may have been charged keeps its bound.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from multigrain.config import LLMSection
from multigrain.errors import ConfigError
from multigrain.llm.loopback import is_loopback
from multigrain.llm.protocol import Answer, Request

TEMPLATE_TOKENS = 64
"""Prompt tokens reserved for the chat template that the server puts around a prompt."""


@dataclass(frozen=True)
class Prices:
    """Prices in dollars per token."""

    input: float = 0.0
    output: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a call, in dollars."""
        return prompt_tokens * self.input + completion_tokens * self.output


@dataclass(frozen=True)
class Usage:
    """Calls, tokens and dollars: used, or an upper bound."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )

    def times(self, factor: float) -> "Usage":
        """Scale the usage; calls and tokens are rounded."""
        return Usage(
            calls=round(factor * self.calls),
            prompt_tokens=round(factor * self.prompt_tokens),
            completion_tokens=round(factor * self.completion_tokens),
            cost=factor * self.cost,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return self + Usage(-other.calls, -other.prompt_tokens, -other.completion_tokens, -other.cost)


class Budget:
    """The caps of `[llm]`, and the usage that counts against them so far, including calls under way.

    Args:
        section: its `max_requests`, `max_tokens` and `max_cost` apply to the run folder, across all commands.
        prices: the prices in force; None if they are unknown.
        spent: usage of earlier commands.

    Raises:
        ConfigError: the cost is capped, but the prices are unknown.
    """

    def __init__(self, section: LLMSection, prices: Prices | None, spent: Usage) -> None:
        if section.max_cost is not None and prices is None:
            unknown = f'the price of "{section.model}" is unknown; set llm.prices = {{ input = ..., output = ... }}'
            raise ConfigError("llm.max_cost", [unknown])
        self._caps = {"requests": section.max_requests, "tokens": section.max_tokens, "cost": section.max_cost}
        self.prices = prices or Prices()
        self.spent = spent

    def bound(self, request: Request) -> Usage:
        """Return an upper bound of a call's usage."""
        text = request.prompt + (request.schema or "") + request.extra
        prompt_tokens = len(text.encode("utf-8", "replace")) + TEMPLATE_TOKENS
        return self.usage(prompt_tokens, request.max_tokens)

    def actual(self, answer: Answer, bound: Usage) -> Usage:
        """Return the usage of an answered call: the server's counts, or the bound where it gives none."""
        prompt = bound.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens
        completion = bound.completion_tokens if answer.completion_tokens is None else answer.completion_tokens
        return self.usage(prompt, completion)

    def obstacle(self, bound: Usage) -> str | None:
        """Return a message naming the cap that a call with this bound would exceed; None if there is room."""
        after = self.spent + bound
        for name, value in (("requests", after.calls), ("tokens", after.tokens), ("cost", after.cost)):
            cap = self._caps[name]
            if cap is not None and value > cap:
                return f"llm.max_{name} = {cap:g} leaves no room for another request"
        return None

    def usage(self, prompt_tokens: int, completion_tokens: int) -> Usage:
        """Return the usage of a call with so many tokens."""
        return Usage(1, prompt_tokens, completion_tokens, self.prices.of(prompt_tokens, completion_tokens))


def prices_of(section: LLMSection) -> Prices | None:
    """Return the prices in force: the section's own, or those that `genai-prices` lists.

    Servers on this machine cost nothing.

    Returns:
        The highest prices among the servers; None if a server's prices are unknown.
    """
    if section.prices is not None:
        return Prices(section.prices.input / 1e6, section.prices.output / 1e6)
    if section.provider != "endpoint":
        return Prices()
    prices = [_listed(url, section.model or "") for url in section.base_url]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None
    return Prices(max(price.input for price in known), max(price.output for price in known))


def _listed(url: str, model: str) -> Prices | None:
    """Look up a model's prices at an address; return None if they are unknown."""
    if is_loopback(urlsplit(url).hostname or ""):
        return Prices()
    from genai_prices import Usage as Tokens  # a large table: loaded where it is needed
    from genai_prices import calc_price

    try:
        listed = calc_price(Tokens(input_tokens=1000, output_tokens=1000), model, provider_api_url=url)
    except LookupError:
        return None
    return Prices(float(listed.input_price) / 1000, float(listed.output_price) / 1000)
