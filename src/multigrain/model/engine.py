"""The engine of a run: where its shards of work are done, in this process or on the machines of a cluster.

A *shard* is a piece of work whose result depends on nothing but its input: a portion of texts to encode, or a range of
the corpus to mine. Cutting work into shards is not up to the engine. So every engine gives the same results.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from multigrain.errors import MultigrainError

MOST_TOLD = 10
"""Failed shards that a message names."""

In = TypeVar("In")
Out = TypeVar("Out")


class Engine(Protocol):
    """Does shards of work."""

    @property
    def ahead(self) -> int:
        """Number of shards worth having in progress at once; 0 if a shard is done as soon as it is submitted."""

    def submit(self, work: Callable[[In], Out], shard: In, name: str) -> Callable[[], Out]:
        """Start the work on a shard, and return a function that waits for its result.

        Args:
            work: does the work; other processes get a copy, which they keep for further shards.
            shard: input of the work.
            name: name of the shard, for messages.

        Raises:
            ShardFailed: from the returned function: the shard failed each time it was tried.
        """


class _Local:
    """Does each shard in this process, at once."""

    ahead = 0

    def submit(self, work: Callable[[In], Out], shard: In, name: str) -> Callable[[], Out]:  # noqa: ARG002
        """Do the work, and return a function that returns its result."""
        result = work(shard)
        return lambda: result


LOCAL: Engine = _Local()


class ShardFailed(MultigrainError):
    """A shard failed each time it was tried."""


def require_all(failures: Sequence[ShardFailed]) -> None:
    """Report the shards that failed, after all others are done and kept.

    Raises:
        ShardFailed: there are some.
    """
    if failures:
        told = "\n".join(map(str, failures[:MOST_TOLD]))
        if len(failures) > MOST_TOLD:
            told += f"\n... and {len(failures) - MOST_TOLD} more"
        raise ShardFailed(f"{told}\nThe results of the other shards are kept. The same command resumes from there.")
