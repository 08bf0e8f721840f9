"""Check the nodes of a cluster before a run uses them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multigrain.errors import ConfigError
from multigrain.pipeline.cluster.worker import Terms, faults_of

SECONDS = 120.0
"""How long a node may take to start a process and to read the files of the models."""
ENGINE = "--engine ray"

Models = Mapping[str, tuple[str, Sequence[object], str]]
"""Models that the nodes load, by setting: name, settings of loading and digest (`multigrain.model.files`)."""


def require_alike(terms: Terms, models: Models) -> None:
    """Check that every node has this version of multigrain, sees the run folder, and has the same files of the models.

    Raises:
        ConfigError: lists the faults of all nodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {setting: (name, list(settings)) for setting, (name, settings, _) in models.items()}
    examine = ray.remote(num_cpus=0, max_retries=1)(_examination())
    found = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = examine.options(scheduling_strategy=there).remote(str(terms.mark), terms.version, asked)
            found[answer] = node["NodeManagerAddress"]
    if not found:
        raise ConfigError(ENGINE, ["no node of the cluster has a CPU. Start one with ray start --address ..."])
    answered, silent = ray.wait([*found], num_returns=len(found), timeout=SECONDS)
    answered = [each for each in answered if not _is_gone(each)]
    if not answered and not silent:
        raise ConfigError(ENGINE, ["all nodes of the cluster were lost while they were examined. Try again"])
    faults = [f"node {found[each]} has not answered within {SECONDS:.0f} s" for each in silent]
    for each in answered:
        faults += [f"node {found[each]} {fault}" for fault in _faults(each, terms, models)]
    if faults:
        raise ConfigError(ENGINE, [*dict.fromkeys(faults)])


def _is_gone(answer: Any) -> bool:
    """Return whether a node was lost, which Ray notices only after some seconds; others do its work."""
    import ray

    try:
        ray.get(answer)
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
        return True
    except ray.exceptions.RayError:
        pass
    return False


def _faults(answer: Any, terms: Terms, models: Models) -> list[str]:
    import ray

    try:
        version, content, digests = ray.get(answer)
    except ray.exceptions.RayError as error:
        return [f"cannot start a process: {str(error).strip().splitlines()[-1]}"]
    faults = faults_of(terms, version, content)
    for setting, digest in digests.items():
        name, _, wanted = models[setting]
        if digest != wanted:
            faults.append(
                f"has other files of {setting} = {name!r} than this machine. Copy the same model to all nodes"
            )
    return faults


def _examination() -> Callable[..., Any]:
    """Return the function that examines a node; as a local one it is sent by value, so it needs no multigrain there."""

    def examine(mark: str, wanted: str, models: dict[str, tuple[str, list[object]]]) -> Any:
        from pathlib import Path

        try:
            content = Path(mark).read_text(encoding="utf-8")
        except OSError:
            content = None
        try:
            from multigrain.version import __version__ as version
        except ImportError:
            return None, content, {}
        if version != wanted:
            return version, content, {}
        from multigrain.model.files import model_digest

        return version, content, {key: model_digest(name, *settings) for key, (name, settings) in models.items()}

    return examine
