"""What a language model is asked, what it answers, and the protocol between."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and everything else that determines the answer.

    `kind` "completion" continues `prompt` as raw text; "chat" sends it as one user message.
    """

    kind: Literal["completion", "chat"]
    prompt: str
    model: str
    max_tokens: int
    temperature: float
    stop: tuple[str, ...] = ()
    seed: int = 0

    @property
    def key(self) -> str:
        """The same for the same request, in any run and any process."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """The text that came back, and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Client(Protocol):
    """Whoever can answer requests. Clients are async context managers; entering connects and checks."""

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
