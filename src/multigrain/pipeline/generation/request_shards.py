"""Write the open requests of a run as shards: files of JSON lines in the form of OpenAI's Batch API.

    FOLDER/requests-00001.jsonl, ...   the requests, with the key in the store as `custom_id`
    FOLDER/manifest.json               run, step, counts, and a digest of all lines

Nothing in the store says that a request was exported: it stays open until its answer is imported. The requests are read
twice, once to count and once to write them, so that none is kept in memory.
"""

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from multigrain.config import Config
from multigrain.errors import ConfigError
from multigrain.files import atomic_folder, write_json
from multigrain.llm import batch_files
from multigrain.llm.budget import Budget, prices_of
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Ledger
from multigrain.pipeline.generation.open_requests import (
    known_dialect,
    next_step,
    open_jobs,
    opened,
    precheck_tasks,
    settled_plan,
)
from multigrain.pipeline.generation.plans import Plan
from multigrain.pipeline.generation.prompt_style import with_assumed_style
from multigrain.pipeline.run_dir import RunDir
from multigrain.terminal import counted
from multigrain.version import __version__

MANIFEST = "manifest.json"


def require_free(folder: Path) -> None:
    """Check that a folder can take an export: it is absent or empty, or an export is there already.

    Raises:
        ConfigError: it holds other files.
    """
    if folder.is_dir() and any(folder.iterdir()) and _manifest(folder) is None:
        found = f"is not empty, and has no {MANIFEST} of an export"
        raise ConfigError("--output", [f"{folder} {found}. Give a new or empty folder"])
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--output", [f"{folder} is a file; wanted a folder, which may be new"])


def write_shards(config: Config, run_dir: RunDir, shards: int, folder: Path) -> str | None:
    """Write the next requests, and return a report; None if none of them is open.

    Args:
        config: the run.
        run_dir: its folder, with the lock.
        shards: number of files; at most as many are written as there are requests.
        folder: the folder to write, which `require_free` has checked.

    Raises:
        ConfigError: the folder holds other requests, or the same ones in another number of shards, or the search tasks
            are no instructions for the base.
    """
    with_assumed_style(config, run_dir)  # notes it for the run
    with opened(config, run_dir) as ledger:
        plan = settled_plan(config, run_dir, ledger)
        precheck_tasks(config, run_dir)
        found = _count(config, ledger, plan)
        ledger.store.commit()
        if found.requests:
            sizes = _sizes(found.requests, shards)
            _write(config, ledger, plan, found.dialect, sizes, folder)
            return "\n".join([*_report(plan, found, len(sizes), folder), next_step(config, run_dir)])
    return f"nothing to export: {found.left_out}" if found.left_out else None


class _Found(NamedTuple):
    """The open requests of a plan."""

    requests: int
    """Number of those that fit under the caps."""
    left_out: str
    """What is said about the others; empty if there are none."""
    dialect: Dialect
    kind: str


def _count(config: Config, ledger: Ledger, plan: Plan) -> _Found:
    """Count the open requests up to the first that might exceed a cap."""
    budget = Budget(config.llm, prices_of(config.llm), ledger.store.spent())
    requests, left_out, obstacle = 0, 0, None
    dialect, kind = Dialect(), ""
    for job in open_jobs(ledger, plan):
        if not kind:
            dialect, kind = known_dialect(config, ledger.store, job.request), job.request.kind
        bound = budget.bound(job.request.suited(dialect))
        obstacle = obstacle or budget.obstacle(bound)
        budget.spent += bound
        requests, left_out = requests + (not obstacle), left_out + bool(obstacle)
    return _Found(requests, f"{counted(left_out, 'requests')} left out: {obstacle}" if obstacle else "", dialect, kind)


def _sizes(requests: int, shards: int) -> list[int]:
    """Return the number of requests in each shard; they differ by one at most, and none is 0."""
    shards = min(shards, requests)
    return [requests // shards + (shard < requests % shards) for shard in range(shards)]


def _write(config: Config, ledger: Ledger, plan: Plan, dialect: Dialect, sizes: list[int], folder: Path) -> None:
    before = _manifest(folder)
    jobs = open_jobs(ledger, plan)
    digest = hashlib.sha256()
    entries: list[dict[str, Any]] = []
    with atomic_folder(folder, keep_others=before is not None) as new:
        for number, size in enumerate(sizes, start=1):
            path = new / f"requests-{number:05}.jsonl"
            with path.open("wb") as file:
                for job in islice(jobs, size):
                    line = batch_files.request_line(job.key, job.request.suited(dialect), dialect)
                    file.write(line)
                    digest.update(line)
                entries.append({"file": path.name, "requests": size, "bytes": file.tell()})
        manifest = {
            "run": config.name,
            "step": plan.description,
            "model": config.llm.model,
            "requests": sum(sizes),
            "digest": digest.hexdigest(),
            "version": __version__,
            "shards": entries,
        }
        if before:
            _require_same(before, manifest, folder)
        write_json(new / MANIFEST, manifest)


def _require_same(before: dict[str, Any], manifest: dict[str, Any], folder: Path) -> None:
    """Check that an export would change nothing in the folder of an earlier one, whose files may be in use.

    Raises:
        ConfigError: it would.
    """
    files, wanted = len(before["shards"]), len(manifest["shards"])
    found = f'{folder} holds {before["requests"]} requests of the run "{before["run"]}" in {counted(files, "files")}'
    advice = "Give a new folder, or delete that one"
    if before["digest"] != manifest["digest"]:
        differing = f"the export of {counted(manifest['requests'], 'requests')} would differ"
        raise ConfigError("--output", [f"{found}; {differing}. {advice}"])
    if files != wanted:
        raise ConfigError("--output", [f"{found}; wanted {wanted}. {advice}"])


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of the export in a folder; None if there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        is_ours = {"run", "step", "requests", "digest", "shards"} <= manifest.keys()
    except (OSError, ValueError, AttributeError):
        return None
    return manifest if is_ours else None


def _report(plan: Plan, found: _Found, shards: int, folder: Path) -> list[str]:
    lines = [f"{plan.description}: {counted(found.requests, 'requests')} in {counted(shards, 'files')} in {folder}"]
    if found.left_out:
        lines.append(found.left_out)
    if found.kind == "completion":
        advice = 'If your engine answers only chat requests, set synthesis.prompt_style = "all-grades"'
        lines.append(f"These requests are raw completions (/v1/completions). {advice}.")
    lines.append("Have them answered, then run: multigrain import-answers RUN.toml ANSWERS")
    return lines
