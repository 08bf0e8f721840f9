"""The engine on a local Ray cluster of two nodes: workers, a node and drivers are lost, and results stay the same."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from multigrain.errors import ConfigError, RunError
from multigrain.model.engine import LOCAL, ShardFailed
from multigrain.model.files import model_digest
from multigrain.pipeline.cluster import ray_engine as module
from multigrain.pipeline.cluster.ray_engine import RayEngine, ray_engine
from tests.pipeline.cluster.test_shards import files_of, graded, small
from tests.pipeline.cluster.works import KilledOnce, Mishaps, doubled, lighten

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "multigrain[ray]"')
__all__ = ["small"]  # a fixture
ROOT = Path(__file__).parents[3]
STORE = 100_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU, and this process connected to them, so that all tests share the worker processes."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": STORE}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    found.add_node(**node)
    ray.init(found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    lighten(monkeypatch.setattr)


@pytest.fixture
def engine(cluster: Any, tmp_path: Path) -> Iterator[RayEngine]:
    with ray_engine(None, tmp_path, {}) as found:
        yield found


def results(engine: RayEngine, work: Callable[[int], int], count: int) -> list[int | str]:
    """Return the result of each shard, or why it failed."""
    started = [engine.submit(work, number, f"shard {number}") for number in range(count)]
    found: list[int | str] = []
    for result in started:
        try:
            found.append(result())
        except ShardFailed as failure:
            found.append(str(failure))
    return found


def test_shards_survive_killed_processes_and_faults_and_fail_at_the_third(engine: RayEngine, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    mishaps = {1: ("kill", 1), 2: ("fail", 2), 4: ("fail", 9), 5: ("kill", 9)}
    found = results(engine, Mishaps(notes, mishaps), 7)
    assert found[4] == "shard 4: failed 3 times: OSError: [Errno 28] No space left on device"
    assert str(found[5]).startswith("shard 5: its process or node was lost 3 times")
    assert [found[number] for number in (0, 1, 2, 3, 6)] == [0, 2, 4, 6, 12]
    assert [(notes / str(number)).stat().st_size for number in (4, 5)] == [3, 3]


def test_a_fault_of_the_settings_is_told_at_once(engine: RayEngine, tmp_path: Path) -> None:
    result = engine.submit(Mishaps(tmp_path, {0: ("refuse", 9)}), 0, "shard 0")
    with pytest.raises(RunError, match="shard 0: judge_model: is no model"):
        result()
    assert (tmp_path / "0").stat().st_size == 1


@pytest.mark.usefixtures("small", "light")
def test_a_run_has_the_same_files_though_a_worker_and_a_node_are_lost(
    cluster: Any, run_toml: Path, tmp_path: Path
) -> None:
    expected = graded(run_toml, tmp_path / "here", LOCAL)
    mark = tmp_path / "mark"
    lost: list[str] = []
    extra = cluster.add_node(num_cpus=1, object_store_memory=STORE)

    class Unlucky(RayEngine):
        """Loses a process at the first portion and at the first range of the corpus, and then a node."""

        works: dict[int, Any] = {}  # noqa: RUF012

        def submit(self, work: Any, shard: Any, name: str) -> Any:
            if name.split(",", maxsplit=1)[0] not in lost:
                lost.append(name.split(",", maxsplit=1)[0])
                mark.touch()
            if "wave 2" in name and "node" not in lost:
                lost.append("node")
                cluster.remove_node(extra, allow_graceful=False)
            wrapped = self.works.setdefault(id(work), (work, KilledOnce(work, mark)))[1]
            return super().submit(wrapped, shard, name)

    with ray_engine(None, tmp_path, {}) as engine:
        found = graded(run_toml, tmp_path / "there", Unlucky(engine._terms))
    with ray_engine(None, tmp_path, {}) as engine:  # Ray may still count the lost node
        assert engine.submit(doubled, 1, "shard")() == 2
    assert lost == ["judging", "mining", "node"]
    assert not mark.exists()
    assert files_of(found.folder) == files_of(expected.folder)


@pytest.mark.usefixtures("small", "light")
def test_a_driver_that_is_killed_goes_on_to_the_same_files(
    cluster: Any, engine: RayEngine, run_toml: Path, tmp_path: Path
) -> None:
    expected = graded(run_toml, tmp_path / "here", LOCAL)
    command = [
        sys.executable,
        "-m",
        "tests.pipeline.cluster.driver",
        run_toml,
        tmp_path / "there",
        cluster.address,
        "20",
    ]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (vectors,) = (tmp_path / "there").rglob("vectors.bin")
    stored = vectors.read_bytes()
    found = graded(run_toml, tmp_path / "there", engine)
    assert files_of(found.folder) == files_of(expected.folder)
    assert vectors.read_bytes().startswith(stored)


ALONE = """
import os, sys
from pathlib import Path
from multigrain.pipeline.cluster.ray_engine import ray_engine
from tests.pipeline.cluster.works import doubled
with ray_engine(None, Path(sys.argv[1]), {}) as engine:
    print(engine.submit(doubled, 21, "shard")())
    if len(sys.argv) > 2:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("kill", [[], ["kill"]])
def test_no_process_of_a_cluster_of_its_own_stays_behind(tmp_path: Path, kill: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mg") as folder:  # the path of a socket must be short
        command = [sys.executable, "-u", "-c", ALONE, str(tmp_path), *kill]
        done = subprocess.run(
            command, env={**environment, "RAY_TMPDIR": folder}, cwd=ROOT, capture_output=True, text=True, timeout=100
        )
        assert (done.stdout, done.returncode) == ("42\n", -signal.SIGKILL if kill else 0), done.stderr
        deadline = time.monotonic() + 20
        while (left := processes_in(folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []


def processes_in(folder: str) -> list[str]:
    """Return the names of the processes that have a file below a folder open.

    Two helpers of Ray are left out: after a kill -9 they notice only a minute later that their node is gone.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(file.readlink()).startswith(folder) for file in (process / "fd").iterdir()):
                found.append((process / "comm").read_text().strip())
    return [name for name in found if not name.startswith(("ray::Dashboard", "ray::RuntimeEnv"))]


def test_nodes_with_another_version_or_other_files_are_named(
    cluster: Any, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings = str(tiny_encoder), (256,)
    models = {"grading.judge_model": (name, settings, model_digest(name, *settings))}
    with ray_engine(None, tmp_path, models):
        assert [path.name for path in tmp_path.iterdir()] == [module.MARK]
    assert not list(tmp_path.iterdir())
    other = {"grading.judge_model": (name, settings, "0123456789abcdef, 256")}
    with pytest.raises(
        ConfigError, match=r"--engine ray: node [\d.]+ has other files of grading.judge_model = "
    ) as caught:
        ray_engine(None, tmp_path, other).__enter__()
    assert len(caught.value.faults) == 1  # both nodes have one address
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", lambda *_: None)
        with pytest.raises(ConfigError, match="does not see the run folder"):
            ray_engine(None, tmp_path, models).__enter__()
    monkeypatch.setattr(module, "__version__", "0.0.1")
    with pytest.raises(ConfigError, match=r"has multigrain \S+; this process has 0.0.1. Install the same version"):
        ray_engine(None, tmp_path, models).__enter__()


def test_a_process_of_a_node_that_joined_later_is_examined_too(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_engine(None, tmp_path, {}) as engine:
        (tmp_path / module.MARK).unlink()
        with pytest.raises(RunError, match="shard 0: a node that joined later does not see the run folder"):
            engine.submit(doubled, 0, "shard 0")()
