"""Works for the processes of a test cluster: some of them kill their process, or fail."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from multigrain.config import Config
from multigrain.errors import ConfigError
from multigrain.model.encode import CachedEncoder
from multigrain.model.engine import LOCAL, Engine
from multigrain.model.roles import Vectors
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import grade, synthesize


def doubled(number: int) -> int:
    return 2 * number


def attempt(notes: Path, shard: object) -> int:
    """Note one more attempt at a shard, and return how many there were before."""
    path = notes / f"{abs(hash(repr(shard))) if not isinstance(shard, int) else shard}"
    before = path.stat().st_size if path.exists() else 0
    with path.open("ab") as file:
        file.write(b"x")
    return before


class Mishaps:
    """Doubles numbers, but does something else to some of them at the first attempts.

    Args:
        notes: folder shared by all processes.
        mishaps: what to do, and at how many attempts, by number.
    """

    def __init__(self, notes: Path, mishaps: dict[int, tuple[str, int]]) -> None:
        self._notes, self._mishaps = notes, mishaps

    def __call__(self, number: int) -> int:
        kind, times = self._mishaps.get(number, ("", 0))
        if attempt(self._notes, number) < times:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "fail":
                raise OSError(28, "No space left on device")
            if kind == "refuse":
                raise ConfigError("judge_model", ["is no model"])
            time.sleep(60)
        return doubled(number)


class KilledOnce:
    """Another work, whose process is killed at its first shard after the mark is set."""

    def __init__(self, work: Callable[[Any], Any], mark: Path) -> None:
        self._work, self._mark = work, mark

    def __call__(self, shard: Any) -> Any:
        try:
            self._mark.rename(self._mark.with_suffix(".used"))
        except FileNotFoundError:
            return self._work(shard)
        os.kill(os.getpid(), signal.SIGKILL)
        return None


class Light(list[Any]):
    """A model of words that needs no torch; each vector also depends on the longest text beside it."""

    prompts: dict[str, str | None] = {}  # noqa: RUF012

    def get_embedding_dimension(self) -> int:
        return 16

    def encode(self, texts: list[str], **_: object) -> Vectors:
        longest = max(map(len, texts))
        found = np.array([np.mean([_of_word(word) for word in text.split()], axis=0) for text in texts])
        found[:, 0] += 1 + 1e-3 * longest
        vectors: Vectors = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return vectors


def _of_word(word: str) -> list[float]:
    return [byte / 128 - 1 for byte in hashlib.blake2b(word.encode(), digest_size=16).digest()]


def load_light() -> Any:
    return Light()


def _light_encoder(_config: Config, run_dir: RunDir, engine: Engine = LOCAL) -> CachedEncoder:
    return CachedEncoder(load_light, "light", run_dir.judge_vectors, "judging", {}, engine=engine)


def lighten(put: Callable[[object, str, Any], None] = setattr) -> None:
    """Let the stages judge by the light model, so that worker processes start in a second."""
    for stage in (synthesize, grade):
        put(stage, "judge_encoder", _light_encoder)
