"""A stage of a run as data: its work, the settings that determine its result, and the files it reads and writes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multigrain.config import Config
from multigrain.files import digest_of
from multigrain.pipeline.recipe import as_given
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result


def always(_config: Config) -> bool:
    """Return True, for a stage that every run has."""
    return True


def no_cut(_config: Config, _run_dir: RunDir) -> str:
    """Return an empty cut, for a stage that uses all of its inputs."""
    return ""


def no_models(_config: Config) -> list[str]:
    """Return no models, for a stage that reads none."""
    return []


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the run.

    Args:
        name: its name in the manifest and on the command line.
        work: function that runs the stage, given the configuration and the run folder.
        sections: sections of the configuration that determine its result, besides the seed.
        reads: files whose content determines its result.
        writes: files that exist once it is done.
        applies: whether a run has this stage.
        cut: number of inputs to which the length of training limits the requests, in words; empty if it does not limit
            them. A different number of training steps thus redoes the stage only if it changes the requests.
        models: names of the models that it reads.
        settings: configuration that it works with, derived from that of the run.
        is_spread: whether its work also takes an engine, which does its shards.
    """

    name: str
    work: Callable[..., Result]
    sections: tuple[str, ...]
    reads: Callable[[Config, RunDir], list[Path]]
    writes: Callable[[Config, RunDir], list[Path]]
    applies: Callable[[Config], bool] = always
    cut: Callable[[Config, RunDir], str] = no_cut
    models: Callable[[Config], list[str]] = no_models
    settings: Callable[[Config, RunDir], Config] = as_given
    is_spread: bool = False

    def fingerprint(self, config: Config, run_dir: RunDir) -> str:
        """Return a digest of everything that determines the result: 16 hexadecimal digits."""
        config = self.settings(config, run_dir)
        parts = [config.fingerprint("seed", *self.sections)]
        parts += [file_digest(path) for path in self.reads(config, run_dir)]
        parts.append(self.cut(config, run_dir))
        return short_digest(parts)

    def has_result(self, config: Config, run_dir: RunDir) -> bool:
        """Return whether the folder holds a result of the stage, made with any settings and inputs."""
        return self.name in run_dir.stages() and all(path.exists() for path in self.writes(config, run_dir))

    def is_done(self, config: Config, run_dir: RunDir) -> bool:
        """Return whether the folder holds the result of the stage for these settings and inputs."""
        return self.has_result(config, run_dir) and self.has_fingerprint(self.fingerprint(config, run_dir), run_dir)

    def has_fingerprint(self, fingerprint: str, run_dir: RunDir) -> bool:
        """Return whether the manifest lists the stage with this fingerprint."""
        entry = run_dir.stages().get(self.name)
        return entry is not None and entry.fingerprint == fingerprint


def file_digest(path: Path) -> str:
    """Return the digest of a file's content, or `absent`."""
    try:
        return digest_of(path)
    except OSError:
        return "absent"  # the stage itself reports it, with a better message


def short_digest(parts: list[str]) -> str:
    """Return one digest of several parts: 16 hexadecimal digits."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
