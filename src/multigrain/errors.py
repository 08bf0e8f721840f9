"""The one tree of errors that multigrain raises.

    MultigrainError
    ├── ConfigError          a setting is wrong                    (exit code 2)
    ├── DataError            an input file is wrong                (exit code 2)
    ├── RunError             the run folder cannot be used as is   (exit code 2)
    └── LLMError             the language model could not help     (exit code 1)
        ├── LLMUnavailable   no connection, time-out, overload; trying again may help
        ├── LLMRefused       wrong key, unknown model, bad request (exit code 2)
        └── LLMReplyError    an answer came, but cannot be used

Every message says where, what was found, what was wanted and what to do.
"""

from pathlib import Path


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


class LLMError(MultigrainError):
    """The language model did not give what was asked for; `status` is HTTP's, where there is one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class LLMUnavailable(LLMError):
    """The server cannot be reached or is overloaded; the same request may succeed later."""


class LLMRefused(LLMError):
    """The server answered, and will answer the same to the same request."""

    exit_code = 2


class LLMReplyError(LLMError):
    """The server answered with something that is no usable completion."""
