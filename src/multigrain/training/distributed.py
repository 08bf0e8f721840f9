"""Several processes that train one model, started by `torchrun` or `accelerate launch`.

The main process does all that a process alone would do. The others wait for its word, take part in the training, and
neither say nor write anything else. Whoever fails, the user is told once.
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
"""The longest wait for another process: the main one may evaluate, or compute frozen states, for hours."""
FIRST_WORD = timedelta(seconds=20)
"""The time the main process has to report an error that all processes met; it may have to import torch first."""
LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exit")
"""How the backends say that another process is no longer there."""

DIVIDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Ways to divide a model among processes. Each forward pass is then one of all of them, and here they differ in how
many they need: distinct texts in micro-batches, and evaluations between steps by the main process alone."""

_are_waiting = False
"""Whether the other processes wait for the main one's word."""


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main() -> bool:
    """Return whether this is the main process, which alone prints and writes."""
    return count() == 1 or os.environ.get("RANK", "0") == "0"


def share_of(batch_size: int) -> int:
    """Return how many tuples of a step each process has.

    Raises:
        ConfigError: the tuples cannot be divided evenly among the processes.
    """
    if batch_size % count():
        fault = f"found {batch_size}; wanted a multiple of the {count()} processes"
        raise ConfigError("training.batch_size", [fault])
    return batch_size // count()


def are_on_cpu() -> bool:
    """Return whether there are several processes and no GPU; accelerate must be told so, or each sees itself alone."""
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
            f"found {divided[0]}; every process holds the whole model here. Leave it out; model.lora needs less memory"
        )
        raise ConfigError("accelerate", [fault])
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if gpus and here > gpus:
        raise ConfigError("torchrun", [f"found {here} processes; there are {gpus} GPUs here, and each wants its own"])
    state = PartialState(cpu=are_on_cpu(), **({"timeout": LONGEST_WAIT} if count() > 1 else {}))
    if state.num_processes != count():
        raise ConfigError("torchrun", [f"found {count()} processes; this hardware cannot bring them together"])
    return state


def from_main(find: Callable[[], T]) -> T:
    """Return in every process what the main process finds.

    Raises:
        MultigrainError: the error that `find` raised; every process raises it.
    """
    if count() == 1:
        return find()
    if not is_main():
        return _heard()  # type: ignore[no-any-return]  # it is what the main process found
    try:
        found = find()
    except Exception as error:
        _tell(error=error)
        raise
    _tell(found)
    return found


@contextmanager
def leading() -> Iterator[None]:
    """Wrap all that the main process does: unless it calls `begin`, the others end as it does."""
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
    """Tell the other processes, if there are any, to take part in the training."""
    global _are_waiting  # noqa: PLW0603
    if _are_waiting:
        _are_waiting = False
        _tell(True)


def follow(take_part: Callable[[], None]) -> None:
    """Wait for the main process, and take part if there is something to do.

    Raises:
        MultigrainError: the main process failed before the training, or this process failed in it.
    """
    set_mode("none")
    with _loss_explained():
        if _heard():
            take_part()


def is_first_to_tell() -> bool:
    """Return whether nobody has told the user yet what went wrong; the main process comes first."""
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
    except (RuntimeError, KeyError):  # whoever kept the store is gone
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
    """Send to the other processes; an error goes as exit code and text, for not every error survives pickling."""
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
            f"training: another of the {count()} processes has ended. Give the same command again: it goes on from the "
            "last checkpoint."
        ) from error
