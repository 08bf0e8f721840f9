"""The engine on a Ray cluster. Ray schedules the shards and repeats those whose process or node is lost."""

import os
import secrets
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from multigrain.errors import RunError, first_line
from multigrain.extras import require_extra
from multigrain.files import write_atomic
from multigrain.model.engine import ShardFailed
from multigrain.pipeline.cluster.address import require_answer
from multigrain.pipeline.cluster.nodes import ENGINE, Models, require_alike
from multigrain.pipeline.cluster.worker import MOST_KEPT, Refused, Terms, do_shard
from multigrain.version import __version__

TRIES = 3
"""How often a shard is tried."""
PER_SLOT = 2
"""Shards in progress for each CPU (GPU, if there are any) of the cluster: one works, one waits."""
COUNTED_EVERY = 5.0
"""Seconds after which the CPUs of the cluster are counted again."""
MARK = ".ray"
"""File in the run folder by which nodes know that they see it."""

In = TypeVar("In")
Out = TypeVar("Out")


@contextmanager
def ray_engine(address: str | None, folder: Path, models: Models) -> "Iterator[RayEngine]":
    """Connect to a cluster, or start Ray on this machine, and check the nodes.

    Args:
        address: HOST:PORT of the head; None for that of `RAY_ADDRESS`, or without it for Ray on this machine alone.
        folder: the run folder, which every node must see under the same path.
        models: the models that the nodes load.

    Yields:
        The engine.

    Raises:
        ConfigError: nothing answers at the address, or a node lacks something.
        RunError: Ray is not installed, or cannot be started.
    """
    require_extra("ray")
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        require_answer(address)
    import ray

    is_ours = not ray.is_initialized()
    mark = folder.absolute() / MARK
    try:
        if is_ours:
            _connect(address)
        terms = Terms(__version__, mark, secrets.token_hex(16))
        write_atomic(mark, terms.secret.encode())
        require_alike(terms, models)
        yield RayEngine(terms)
    finally:
        mark.unlink(missing_ok=True)
        if is_ours:
            ray.shutdown()  # ends the shards in progress


def _connect(address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what starts on this machine reports to nobody
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address or "local", include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR"
        )
    except (RuntimeError, ConnectionError, ValueError, OSError) as error:
        raise RunError(f"{ENGINE}: Ray cannot be used: {first_line(error)}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own


class RayEngine:
    """Does shards on a connected cluster.

    Args:
        terms: what must hold in the processes of the cluster.
    """

    def __init__(self, terms: Terms) -> None:
        import ray

        self._terms = terms
        self._works: dict[int, tuple[Any, str, Any]] = {}
        self._slots, self._counted = 0, float("-inf")
        uses_gpus = bool(ray.cluster_resources().get("GPU", 0))
        self._unit = "GPU" if uses_gpus else "CPU"
        self._do: Any = ray.remote(num_cpus=1, num_gpus=int(uses_gpus), max_retries=TRIES - 1, retry_exceptions=True)(
            do_shard
        )

    def __str__(self) -> str:
        import ray

        nodes = sum(node["Alive"] for node in ray.nodes())
        return f"Ray, nodes: {nodes}, {self._unit}s: {self._count()}"

    @property
    def ahead(self) -> int:
        """Number of shards worth having in progress at once."""
        return PER_SLOT * self._count()

    def submit(self, work: Callable[[In], Out], shard: In, name: str) -> Callable[[], Out]:
        """Start the work on a shard; see `multigrain.model.engine.Engine`.

        Raises:
            RunError: from the returned function: a fault that another try would not mend.
            ShardFailed: from it, too.
        """
        import ray

        key, reference = self._reference(work)
        result = self._do.remote(self._terms, key, [reference], shard)

        def wait() -> Out:
            try:
                found = ray.get(result)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, BaseException) else error
                raise ShardFailed(
                    f"{name}: failed {TRIES} times: {type(cause).__name__}: {first_line(cause)}"
                ) from None
            except ray.exceptions.RayError as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise ShardFailed(f"{name}: its process or node was lost {TRIES} times ({reason})") from None
            if isinstance(found, Refused):
                raise RunError(f"{name}: {found.message}")
            result_of_work: Out = found
            return result_of_work

        return wait

    def _reference(self, work: Any) -> tuple[str, Any]:
        """Return the key and the reference of a work, which is sent once."""
        import ray

        known = self._works.pop(id(work), None) or (work, uuid.uuid4().hex, ray.put(work))
        self._works = dict([*self._works.items(), (id(work), known)][-MOST_KEPT:])  # kept: no other object has its id
        return known[1], known[2]

    def _count(self) -> int:
        import ray

        if time.monotonic() - self._counted > COUNTED_EVERY:
            self._slots = max(1, int(ray.cluster_resources().get(self._unit, 0)))
            self._counted = time.monotonic()
        return self._slots
