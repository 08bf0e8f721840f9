"""A language model that does what a test's plan says, and keeps account of what was done to it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from multigrain.errors import LLMRefused, LLMReplyError, LLMTruncated, LLMUnavailable
from multigrain.llm.dialect import Dialect
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer, Request

PROMPT_TOKENS, COMPLETION_TOKENS = 2, 5


@dataclass
class World:
    """What all servers of a test share.

    Attributes:
        plans: by prompt, the fate of each attempt; later attempts are answered.
        sent: attempts by prompt.
        answered: good answers by prompt.
        billed: tokens that a strict provider would charge for.
        moments: (time, prompt) of each attempt.
    """

    plans: dict[str, list[str]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    billed: int = 0
    moments: list[tuple[float, str]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)


class FakeServer:
    """One server of a world.

    Args:
        world: shared with others.
        latency: seconds an answer takes.
        outages: (from, to) in which nobody answers.
        half_dead: during outages it still says that it is alive.
        capacity: more requests at once are refused with 429.
        retry_after: seconds that a 429 asks to wait.
    """

    def __init__(
        self,
        world: World,
        latency: float = 0.1,
        outages: tuple[tuple[float, float], ...] = (),
        half_dead: bool = False,
        capacity: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.world, self.latency, self.outages, self.half_dead = world, latency, outages, half_dead
        self.capacity, self.retry_after = capacity, retry_after
        self.address = f"fake {id(self)}"
        self.dialect: Dialect | None = Dialect("text")
        self.under_way = self.most_under_way = self.entered = 0

    async def __aenter__(self) -> "FakeServer":
        self.entered += 1
        return self

    async def __aexit__(self, *error: object) -> None:
        self.entered -= 1

    def is_out(self) -> bool:
        now = asyncio.get_running_loop().time()
        return any(start <= now < end for start, end in self.outages)

    async def is_alive(self) -> bool:
        return self.half_dead or not self.is_out()

    async def complete(self, request: Request) -> Answer:
        assert self.entered == 1
        world, prompt = self.world, request.prompt
        world.moments.append((asyncio.get_running_loop().time(), prompt))
        world.requests.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.is_out():
                raise LLMUnavailable("connection refused")
            if self.capacity is not None and self.under_way > self.capacity:
                raise LLMUnavailable("busy", 429, retry_after=self.retry_after)
            plan = world.plans.get(prompt, [])
            fate = plan[world.sent[prompt]] if world.sent[prompt] < len(plan) else "good"
            world.sent[prompt] += 1
            if fate == "busy":
                raise LLMUnavailable("busy", 429, retry_after=self.retry_after)
            await asyncio.sleep(self.latency)
            if self.is_out():
                raise LLMUnavailable("cut", billed=True)
            return self._fulfil(prompt, fate)
        finally:
            self.under_way -= 1

    def _fulfil(self, prompt: str, fate: str) -> Answer:
        match fate:
            case "error":
                raise LLMUnavailable("it broke", 500)
            case "rejected":
                raise LLMRefused("too long", 400)
            case "forbidden":
                raise LLMRefused("wrong key", 401)
        self.world.billed += PROMPT_TOKENS + COMPLETION_TOKENS
        match fate:
            case "cut":
                raise LLMUnavailable("broken off", billed=True)
            case "html":
                raise LLMReplyError("not JSON: <html>", billed=True)
            case "silent about usage":
                return Answer(f"good {prompt}")
        if fate == "good":
            self.world.answered[prompt] += 1
        finish = {"truncated": "length", "declined": "content_filter"}.get(fate, "stop")
        return Answer(f"{fate} {prompt}", PROMPT_TOKENS, COMPLETION_TOKENS, finish)


def read(answer: Answer) -> str:
    """Only good answers can be read."""
    if answer.finish_reason == "length":
        raise LLMTruncated("cut at the limit")
    if not answer.text.startswith("good"):
        raise LLMReplyError("cannot be read")
    return answer.text


def inputs(prompts: "list[str] | int", max_tokens: int = 8) -> list[Prompted[Any]]:
    """An input for each prompt."""
    names = [f"p{i}" for i in range(prompts)] if isinstance(prompts, int) else prompts
    return [Prompted(name, Request("chat", name, "m", max_tokens, 0.5), read) for name in names]
