"""One stage of a run, as data: what it does, the settings that decide its outcome, and what it reads and writes."""

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
    """Return True: every run has the stage."""
    return True


def no_cut(_config: Config, _run_dir: RunDir) -> str:
    """Return the cut of a stage that takes all of its inputs: none."""
    return ""


def no_models(_config: Config) -> list[str]:
    """Return the models of a stage that reads none."""
    return []


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the run.

    Args:
        name: its name in the manifest and on the command line.
        work: does the stage.
        sections: the sections of the configuration that decide its outcome, beside the seed.
        reads: the files whose content decides its outcome.
        writes: the files that are there once it is done.
        applies: whether a run has this stage at all.
        cut: to how many inputs the length of training cuts what the language model is asked, in words; empty where
            it does not. So other training steps alone redo nothing.
        models: the names of the models that it reads.
        settings: the settings that it works with, of those of the run.
    """

    name: str
    work: Callable[[Config, RunDir], Result]
    sections: tuple[str, ...]
    reads: Callable[[Config, RunDir], list[Path]]
    writes: Callable[[Config, RunDir], list[Path]]
    applies: Callable[[Config], bool] = always
    cut: Callable[[Config, RunDir], str] = no_cut
    models: Callable[[Config], list[str]] = no_models
    settings: Callable[[Config, RunDir], Config] = as_given

    def fingerprint(self, config: Config, run_dir: RunDir) -> str:
        """Return a digest of all that decides the outcome: 16 hexadecimal digits."""
        config = self.settings(config, run_dir)
        parts = [config.fingerprint("seed", *self.sections)]
        parts += [file_digest(path) for path in self.reads(config, run_dir)]
        parts.append(self.cut(config, run_dir))
        return short_digest(parts)

    def has_result(self, config: Config, run_dir: RunDir) -> bool:
        """Tell whether the folder holds a result of the stage, whatever settings and inputs it was made with."""
        return self.name in run_dir.stages() and all(path.exists() for path in self.writes(config, run_dir))

    def is_done(self, config: Config, run_dir: RunDir) -> bool:
        """Tell whether the result of the stage is there, made with these settings and inputs."""
        return self.has_result(config, run_dir) and self.has_fingerprint(self.fingerprint(config, run_dir), run_dir)

    def has_fingerprint(self, fingerprint: str, run_dir: RunDir) -> bool:
        """Tell whether the manifest holds the stage with this fingerprint."""
        entry = run_dir.stages().get(self.name)
        return entry is not None and entry.fingerprint == fingerprint


def file_digest(path: Path) -> str:
    """Return the digest of a file's content, or `absent`."""
    try:
        return digest_of(path)
    except OSError:
        return "absent"  # the stage itself will say so, with the right message


def short_digest(parts: list[str]) -> str:
    """Return one digest of several: 16 hexadecimal digits."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
