"""What a language model is asked, what it answers, and the protocol between."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from multigrain.llm.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and everything else that determines the answer.

    Args:
        kind: "completion" continues `prompt` as raw text; "chat" sends it as one user message.
        prompt: the whole text.
        model: the model's name at the server.
        max_tokens: the answer is cut there.
        temperature: of sampling.
        stop: texts that end the answer.
        seed: of sampling.
        schema: JSON schema of the object wanted, as text; None for free text.
        version: which stage asks, in which version of its prompt.
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

    @property
    def key(self) -> str:
        """The same for the same input, in any run and any process.

        `max_tokens` is left out: an answer that came whole is the same under a larger limit.
        """
        parts = (self.version, self.kind, self.prompt, self.model, self.temperature, self.stop, self.seed, self.schema)
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """The text that came back, and what it cost. Tokens are None where the server does not tell."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str = "stop"
    """OpenAI's word: `stop`, `length` (cut at the token limit), `content_filter`, ..."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and how its answer is read."""

    request: Request
    read: Callable[[Answer], Any]
    """Raises LLMReplyError where the answer is no use."""


class Client(Protocol):
    """Whoever can answer requests. Clients are async context managers; entering connects and checks."""

    address: str
    """Where it is, for messages; what was learnt about it is kept under this name."""
    dialect: Dialect | None
    """How it is spoken to; None as long as nobody knows."""

    async def __aenter__(self) -> "Client":
        """Connect.

        Raises:
            ConfigError: nobody answers at the address.
            LLMRefused: the key or the model is refused.
        """

    async def __aexit__(self, *error: object) -> None:
        """Disconnect; whatever was started is stopped."""

    async def complete(self, request: Request) -> Answer:
        """Answer one request; several may be under way at once.

        Raises:
            LLMUnavailable: try again later.
            LLMRefused: trying again is no use.
            LLMReplyError: an answer came, but no usable one.
        """

    async def is_alive(self) -> bool:
        """Whether the server answers at all, found without a request that costs.

        Raises:
            LLMUnavailable: it never will again.
        """
