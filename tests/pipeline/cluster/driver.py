"""Run the stages that have shards on a cluster, and kill this process at a given shard.

Arguments: RUN.toml, output, address of the cluster, number of the shard.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multigrain.pipeline.cluster.ray_engine import RayEngine, ray_engine
from tests.pipeline.cluster.test_shards import graded, shrink
from tests.pipeline.cluster.works import lighten


class Killing(RayEngine):
    """Kills this process at a shard."""

    left = 0

    def submit(self, work: Callable[[Any], Any], shard: Any, name: str) -> Callable[[], Any]:
        type(self).left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(work, shard, name)


if __name__ == "__main__":
    run_toml, output, address, number = sys.argv[1:]
    shrink()
    lighten()
    Killing.left = int(number)
    place = Path(output)
    place.mkdir(exist_ok=True)
    with ray_engine(address, place, {}) as engine:
        graded(Path(run_toml), place, Killing(engine._terms))
