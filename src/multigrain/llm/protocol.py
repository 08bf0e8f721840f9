"""Requests to a language model, its answers, and the protocol of all clients."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from multigrain.llm import reasoning
from multigrain.llm.dialect import Dialect

TOOL_CALLS = ("tool_calls", "function_call")
"""Finish reasons of an answer that calls a tool and has no text."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and everything else that determines the answer.

    Args:
        kind: "completion" continues `prompt` as raw text; "chat" sends it as one user message.
        prompt: the full text.
        model: the model's name at the server.
        max_tokens: token limit of the answer.
        temperature: sampling temperature.
        stop: texts that end the answer.
        seed: sampling seed.
        schema: JSON schema of the wanted object, as text; None for free text.
        version: the stage that asks, and the version of its prompt.
        extra: further fields of the request (`llm.extra_body`), as JSON; empty for none.
    """

    kind: Literal["completion", "chat"]
    prompt: str
    model: str
    max_tokens: int
    temperature: float
    stop: tuple[str, ...] = ()
    seed: int = 0
    schema: str | None = None
    version: str = ""
    extra: str = ""

    @property
    def key(self) -> str:
        """Hash of everything that determines the answer, equal in every run and process.

        `max_tokens` is left out: a complete answer is the same under a larger limit.
        """
        known = (self.version, self.kind, self.prompt, self.model, self.temperature, self.stop, self.seed, self.schema)
        parts = (*known, self.extra) if self.extra else known  # without `extra`, keys are as in older stores
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    @property
    def dialect_key(self) -> str:
        """Name under which the store keeps a server's dialect: the model, and `extra`, which may choose a provider."""
        return f"{self.model} {self.extra}".rstrip()

    def suited(self, dialect: Dialect | None) -> "Request":
        """Return the request to send: a reasoning model gets extra tokens to reason with, and no stop texts.

        A stop text, such as a line break, would end the reasoning before the answer begins.
        """
        if dialect is None or not dialect.is_reasoning_model:
            return self
        has_room = self.max_tokens >= 2 * reasoning.REASONING_TOKENS  # say, after a truncated answer
        further_tokens = 0 if has_room else reasoning.REASONING_TOKENS
        return replace(self, max_tokens=self.max_tokens + further_tokens, stop=())


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of an answer, and its token counts, which are None if the server does not report them."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str = "stop"
    """In OpenAI's words: `stop`, `length` (truncated at the token limit), `content_filter`, ..."""
    has_reasoning: bool = False
    """Whether the server reported reasoning apart from the text; the store does not keep this."""


class Client(Protocol):
    """A language model that answers requests. Clients are async context managers: entering connects and checks."""

    address: str
    """Address of the server, for messages, and as the key of its dialect in the store."""
    dialect: Dialect | None
    """Dialect of the server; None until it is known."""

    async def __aenter__(self) -> "Client":
        """Connect.

        Raises:
            ConfigError: no server answers at the address.
            LLMRefused: the key or the model is refused.
        """

    async def __aexit__(self, *error: object) -> None:
        """Disconnect, and stop any server that was started."""

    async def complete(self, request: Request) -> Answer:
        """Answer one request; several may be under way at once.

        Raises:
            LLMUnavailable: the server is busy or unreachable; a later try may succeed.
            LLMRefused: the server refuses the request; a retry would not help.
            LLMReplyError: an answer came, but is unusable.
        """

    async def is_alive(self) -> bool:
        """Return whether the server answers at all, without sending a request that costs.

        Raises:
            LLMUnavailable: the server is gone for good.
        """
