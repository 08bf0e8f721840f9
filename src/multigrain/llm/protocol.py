"""What a language model is asked, what it answers, and the protocol between."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from multigrain.llm import reasoning
from multigrain.llm.dialect import Dialect

TOOL_CALLS = ("tool_calls", "function_call")
"""Why an answer ended that holds no text."""


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
        """The same for the same input, in any run and any process.

        `max_tokens` is left out: an answer that came whole is the same under a larger limit.
        """
        known = (self.version, self.kind, self.prompt, self.model, self.temperature, self.stop, self.seed, self.schema)
        parts = (*known, self.extra) if self.extra else known  # as it was before there were further fields
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    @property
    def asked_of(self) -> str:
        """Under which name what is learnt of a server is kept: the model's, with further fields, which may route."""
        return f"{self.model} {self.extra}".rstrip()

    def suited(self, dialect: Dialect | None) -> "Request":
        """As it is sent: a model that thinks has room for its thoughts, and is not stopped at the first line's end."""
        if dialect is None or not dialect.thinks:
            return self
        has_room = self.max_tokens >= 2 * reasoning.ROOM  # say, after an answer that was cut
        return replace(self, max_tokens=self.max_tokens + (0 if has_room else reasoning.ROOM), stop=())


@dataclass(frozen=True, slots=True)
class Answer:
    """The text that came back, and what it cost. Tokens are None where the server does not tell."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str = "stop"
    """OpenAI's word: `stop`, `length` (cut at the token limit), `content_filter`, ..."""
    has_thoughts: bool = False
    """Whether the server told, beside the text, that the model had reasoned; not kept."""


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
