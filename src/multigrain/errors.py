"""The exceptions that multigrain raises, in one tree.

    MultigrainError
    ├── ConfigError          a setting is wrong                        (exit code 2)
    ├── DataError            an input file is wrong                    (exit code 2)
    ├── RunError             the run folder cannot be used as is       (exit code 2)
    ├── TrainingFailed       the model is far worse than its base      (exit code 1)
    └── LLMError             the language model gave no usable answer  (exit code 1)
        ├── LLMUnavailable   no connection, timeout or overload; a retry may help
        ├── LLMRefused       wrong key, unknown model, bad request     (exit code 2)
        └── LLMReplyError    an answer came, but is unusable
            ├── LLMTruncated   it was truncated at its token limit
            └── LLMDeclined    the model declined to answer

Every message says where the fault is, what was found, what was wanted and what to do.
"""

from pathlib import Path

LONGEST_MESSAGE = 600


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, without the advice that may follow."""
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class MultigrainError(Exception):
    """Base class of all errors that multigrain explains to the user."""

    exit_code = 1


class ConfigError(MultigrainError):
    """One or more settings are wrong; the message lists every fault."""

    exit_code = 2

    def __init__(self, where: str | Path, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(f"{where}: {fault}" for fault in faults))


class DataError(MultigrainError):
    """An input file contains something that cannot be used."""

    exit_code = 2

    def __init__(self, where: str | Path, fault: str, line: int | None = None) -> None:
        position = f"{where}, line {line}" if line is not None else f"{where}"
        super().__init__(f"{position}: {fault}")


class RunError(MultigrainError):
    """The run folder or its environment is in a state that the user can correct; the message says how."""

    exit_code = 2


class TrainingFailed(MultigrainError):
    """Training finished, but the model is far worse than its base."""


class LLMError(MultigrainError):
    """The language model gave no usable answer.

    Attributes:
        reason: one word, by which unanswered inputs are counted and can be retried.
        status: HTTP status, if there is one.
        billed: whether the server may have charged for the call.
    """

    reason = "failed"

    def __init__(self, message: str, status: int | None = None, billed: bool = False) -> None:
        self.status = status
        self.billed = billed
        # Servers quote requests at any length, with characters that UTF-8 cannot encode.
        super().__init__(message.encode("utf-8", "replace").decode()[:LONGEST_MESSAGE])


class LLMUnavailable(LLMError):
    """The server cannot be reached or is overloaded; the same request may succeed later.

    Attributes:
        retry_after: seconds to wait before a retry, as the server asked.
    """

    reason = "transport"

    def __init__(
        self, message: str, status: int | None = None, billed: bool = False, retry_after: float | None = None
    ) -> None:
        self.retry_after = retry_after
        super().__init__(message, status, billed)


class LLMRefused(LLMError):
    """The server refused the request, and would refuse the same request again.

    Attributes:
        said: the server's full reply; the message may quote only its beginning.
    """

    exit_code = 2
    reason = "rejected"

    def __init__(self, message: str, status: int | None = None, billed: bool = False, said: str = "") -> None:
        self.said = said
        super().__init__(message, status, billed)


class LLMReplyError(LLMError):
    """The server's answer is not a usable completion; a retry may bring one."""

    reason = "unreadable"


class LLMTruncated(LLMReplyError):
    """The answer was truncated at its token limit; a larger limit may help."""

    reason = "length"


class LLMDeclined(LLMReplyError):
    """The model declined to answer; a retry would not help."""

    reason = "declined"
