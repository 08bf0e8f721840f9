"""The one tree of errors that multigrain raises.

    MultigrainError
    ├── ConfigError          a setting is wrong                    (exit code 2)
    ├── DataError            an input file is wrong                (exit code 2)
    ├── RunError             the run folder cannot be used as is   (exit code 2)
    ├── TrainingFailed       the model is spoiled                  (exit code 1)
    └── LLMError             the language model could not help     (exit code 1)
        ├── LLMUnavailable   no connection, time-out, overload; trying again may help
        ├── LLMRefused       wrong key, unknown model, bad request (exit code 2)
        └── LLMReplyError    an answer came, but cannot be used
            ├── LLMTruncated   it was cut at its token limit
            └── LLMDeclined    the model declined

Every message says where, what was found, what was wanted and what to do.
"""

from pathlib import Path

LONGEST_MESSAGE = 600


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, without the pages of advice that may follow."""
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class MultigrainError(Exception):
    """Anything that multigrain knows how to explain."""

    exit_code = 1


class ConfigError(MultigrainError):
    """One or more settings are wrong; the message lists every fault."""

    exit_code = 2

    def __init__(self, where: str | Path, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(f"{where}: {fault}" for fault in faults))


class DataError(MultigrainError):
    """An input file holds something that cannot be used."""

    exit_code = 2

    def __init__(self, where: str | Path, fault: str, line: int | None = None) -> None:
        position = f"{where}, line {line}" if line is not None else f"{where}"
        super().__init__(f"{position}: {fault}")


class RunError(MultigrainError):
    """The run folder is in a state that a command of the user can mend."""

    exit_code = 2


class TrainingFailed(MultigrainError):
    """A training has come to its end, and the model is far worse than its base."""


class LLMError(MultigrainError):
    """The language model did not give what was asked for.

    Attributes:
        reason: one word, by which inputs that stay without an answer are counted and put back.
        status: HTTP's, where there is one.
        billed: the server may have charged for the call.
    """

    reason = "failed"

    def __init__(self, message: str, status: int | None = None, billed: bool = False) -> None:
        self.status = status
        self.billed = billed
        # Servers quote what UTF-8 cannot hold, and at any length.
        super().__init__(message.encode("utf-8", "replace").decode()[:LONGEST_MESSAGE])


class LLMUnavailable(LLMError):
    """The server cannot be reached or is overloaded; the same request may succeed later.

    Attributes:
        retry_after: seconds that the server asks to wait.
    """

    reason = "transport"

    def __init__(
        self, message: str, status: int | None = None, billed: bool = False, retry_after: float | None = None
    ) -> None:
        self.retry_after = retry_after
        super().__init__(message, status, billed)


class LLMRefused(LLMError):
    """The server answered, and will answer the same to the same request.

    Attributes:
        said: the whole of what the server said, of which the message may have the beginning alone.
    """

    exit_code = 2
    reason = "rejected"

    def __init__(self, message: str, status: int | None = None, billed: bool = False, said: str = "") -> None:
        self.said = said
        super().__init__(message, status, billed)


class LLMReplyError(LLMError):
    """The server answered with something that is no usable completion; another try may bring one."""

    reason = "unreadable"


class LLMTruncated(LLMReplyError):
    """The answer was cut at its token limit; a larger limit may bring the whole."""

    reason = "length"


class LLMDeclined(LLMReplyError):
    """The model declined to answer; asking again is no use."""

    reason = "declined"
