"""What a worker process of the cluster does with a shard."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from multigrain.errors import MultigrainError
from multigrain.version import __version__

MOST_KEPT = 2
"""Copies of works, such as a loaded model, that a process keeps."""


class Terms(NamedTuple):
    """What must hold in every process that works for a run."""

    version: str
    """The version of multigrain."""
    mark: Path
    """A file in the run folder."""
    secret: str
    """Its content, which is new for each command."""


class Refused(NamedTuple):
    """A fault that another try would not mend."""

    message: str


_works: dict[str, Callable[[Any], Any]] = {}
"""The works that this process has used last, by key."""


def do_shard(terms: Terms, key: str, work: Sequence[Any], shard: Any) -> Any:
    """Return the result of a shard, or a `Refused`.

    Args:
        terms: what must hold here.
        key: identifies the work, which this process may have already.
        work: the reference to the work.
        shard: input of the work.
    """
    try:
        _require(terms)
        return _work(key, work[0])(shard)
    except MultigrainError as error:
        return Refused(str(error))


@cache
def _require(terms: Terms) -> None:
    """Check a process of a node that joined after the run had begun; see `multigrain.pipeline.cluster.nodes`."""
    if faults := faults_of(terms, __version__, content_of(terms.mark)):
        raise MultigrainError("a node that joined later " + "; ".join(faults))


def faults_of(terms: Terms, version: str | None, content: str | None) -> list[str]:
    """Return what is wrong with a node, from the version of multigrain there and the content of the mark."""
    faults = []
    if version is None:
        faults.append(f"has no multigrain. Install multigrain=={terms.version} there")
    elif version != terms.version:
        faults.append(f"has multigrain {version}; this process has {terms.version}. Install the same version")
    if content != terms.secret:
        faults.append(
            f"does not see the run folder {terms.mark.parent}. Choose an output on a disk that all nodes share"
        )
    return faults


def content_of(mark: Path) -> str | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        return mark.read_text(encoding="utf-8")
    except OSError:
        return None


def _work(key: str, reference: Any) -> Callable[[Any], Any]:
    import ray

    if key in _works:
        _works[key] = _works.pop(key)  # the last one used
    else:
        if ray.get_gpu_ids():  # so that products are computed there (`multigrain.retrieval.products`)
            import torch  # noqa: F401
        while len(_works) >= MOST_KEPT:
            del _works[next(iter(_works))]
        _works[key] = ray.get(reference)
    return _works[key]
