"""Several processes that train one model, started by `torchrun` or `accelerate launch`.

The main process does everything that a single process would do. The others wait for its signal, take part in the
training, and print and write nothing else. Whichever process fails, the user sees the error once.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from multigrain.errors import ConfigError, MultigrainError, RunError
from multigrain.terminal import set_mode

if TYPE_CHECKING:
    from accelerate import PartialState


T = TypeVar("T")

LONGEST_WAIT = timedelta(days=1)
"""Longest wait for another process: the main process may evaluate, or compute frozen states, for hours."""
FIRST_WORD = timedelta(seconds=20)
"""How long other processes wait for the main process to report a shared error; it may have to import torch first."""
LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exit")
"""Signs of a lost process in the error messages of the backends."""

DIVIDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Ways to split a model among processes, which are not supported. They need all processes in every forward pass. Here
the number of passes differs: by the distinct texts of each process, and by evaluations in the main process alone."""

_are_waiting = False
"""Whether the other processes are waiting for the main process."""


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main() -> bool:
    """Return whether this is the main process, the only one that prints and writes."""
    return count() == 1 or os.environ.get("RANK", "0") == "0"


def share_of(batch_size: int) -> int:
    """Return the number of tuples per step of each process.

    Raises:
        ConfigError: the tuples cannot be divided evenly among the processes.
    """
    if batch_size % count():
        fault = f"found {batch_size}; wanted a multiple of the {count()} processes"
        raise ConfigError("training.batch_size", [fault])
    return batch_size // count()


def are_on_cpu() -> bool:
    """Return whether there are several processes and no GPU. Unless told so, accelerate starts no group on CPUs."""
    import torch

    return count() > 1 and not torch.accelerator.is_available()


def joined() -> "PartialState":
    """Return the state of the process group; create the group at the first call.

    Raises:
        ConfigError: the processes cannot form a group.
    """
    import torch
    from accelerate import PartialState

    if divided := [name for variable, name in DIVIDING.items() if os.environ.get(variable, "").lower() == "true"]:
        fault = (
            f"found {divided[0]}; here every process holds the whole model. Leave it out; model.lora needs less memory"
        )
        raise ConfigError("accelerate", [fault])
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if gpus and here > gpus:
        raise ConfigError(
            "torchrun", [f"found {here} processes; there are {gpus} GPUs here, and each process needs one"]
        )
    state = PartialState(cpu=are_on_cpu(), **({"timeout": LONGEST_WAIT} if count() > 1 else {}))
    if state.num_processes != count():
        raise ConfigError("torchrun", [f"found {count()} processes; they cannot form a group on this hardware"])
    return state


def from_main(find: Callable[[], T]) -> T:
    """Call `find` in the main process, and return its result in every process.

    Raises:
        MultigrainError: the error that `find` raised; every process raises it.
    """
    if count() == 1:
        return find()
    if not is_main():
        return _heard()  # type: ignore[no-any-return]  # the result of the main process
    try:
        found = find()
    except Exception as error:
        _tell(error=error)
        raise
    _tell(found)
    return found


@contextmanager
def leading() -> Iterator[None]:
    """Wrap all work of the main process: if it never calls `begin`, the other processes end when it does."""
    global _are_waiting  # noqa: PLW0603 (there is one group of processes)
    _are_waiting = count() > 1
    try:
        with _loss_explained():
            yield
    except Exception as error:
        if _are_waiting:
            _tell(error=error)
        raise
    if _are_waiting:
        _tell(False)


def begin() -> None:
    """Tell the other processes, if any, to take part in the training."""
    global _are_waiting  # noqa: PLW0603
    if _are_waiting:
        _are_waiting = False
        _tell(True)


def follow(take_part: Callable[[], None]) -> None:
    """Wait for the main process, and take part in the training if there is one.

    Raises:
        MultigrainError: the main process failed before the training, or this process failed during it.
    """
    set_mode("none")
    with _loss_explained():
        if _heard():
            take_part()


def is_first_to_tell() -> bool:
    """Return whether this process should report an error: no other has reported it, and the main process goes first."""
    if count() == 1:
        return True
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # documented there

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = PrefixStore(f"multigrain {attempt}", TCPStore(*address, is_master=False, timeout=FIRST_WORD))
        if not is_main():
            _wait_for_main(store)
        return store.add("told", 1) == 1
    except (RuntimeError, KeyError):  # the process that hosts the store is gone
        return True


def leave() -> None:
    """Leave the process group at the end; backends warn about processes that exit without it."""
    if count() > 1:
        joined().destroy_process_group()


def _wait_for_main(store: Any) -> None:
    until = time.monotonic() + FIRST_WORD.total_seconds()
    while time.monotonic() < until and not store.check(["told"]):
        time.sleep(0.1)


def _tell(found: Any = None, error: Exception | None = None) -> None:
    """Send a result or an error to the other processes; an error as exit code and text, as not every one pickles."""
    from accelerate.utils import broadcast_object_list

    code = error.exit_code if isinstance(error, MultigrainError) else 1
    joined()
    broadcast_object_list([found, error and (code, str(error))])


def _heard() -> Any:
    from accelerate.utils import broadcast_object_list

    joined()
    found, failure = broadcast_object_list([None, None])
    if failure:
        error = RunError(failure[1])
        error.exit_code = failure[0]
        raise error
    return found


@contextmanager
def _loss_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not any(sign in str(error) for sign in LOST):
            raise
        raise RunError(
            f"training: another of the {count()} processes has ended. Run the same command again: it resumes from the "
            "last checkpoint."
        ) from error
