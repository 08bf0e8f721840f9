"""Describe the environment of a measurement: code, date, machine, packages."""

import argparse
import datetime
import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/*/results/**"
MEASURED = ("src", "benchmarks", "examples", "pyproject.toml", "constraints.txt", f":(exclude,glob){RESULTS}")
"""Paths that may change a figure: all code, but no results."""


def environment(*packages: str, **seeds: int | list[int]) -> dict[str, Any]:
    """Return the environment of a measurement.

    It contains the commit, the date, the processor, the GPU if there is one, the value of `precision = "auto"` here,
    and the versions of Python and of some packages.

    Args:
        packages: the packages whose versions are recorded.
        seeds: the seed or seeds of the benchmark, by the name of what they draw.
    """
    import torch  # here, because some benchmarks do not need it and measure memory

    from multigrain.model.precision import uses_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    information = Path("/proc/cpuinfo")
    processor = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return {
        **code(),
        "date": datetime.date.today().isoformat(),
        "processor": f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores",
        **({"gpu": torch.cuda.get_device_name()} if device.type == "cuda" else {}),
        "auto": "bf16" if uses_bf16("auto", device) else "fp32",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        **({"seeds": seeds} if seeds else {}),
    }


def code(root: Path = ROOT) -> dict[str, str]:
    """Return the commit and, if anything has changed since, a digest of the changes.

    Results of changed code are thus distinct from those of the commit.
    """
    changed = changes(root)
    digest = {"changes": f"sha256 {hashlib.sha256(changed).hexdigest()[:16]}"} if changed else {}
    return {"commit": _git(root, "describe", "--always").decode().strip() or "unknown", **digest}


def changes(root: Path) -> bytes:
    """Return the differences from the commit: the changes, then new files with their content."""
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *MEASURED).split(b"\0")
    contents = [b"%s\n%s" % (name, (root / name.decode()).read_bytes()) for name in new if name]
    return b"\n".join([_git(root, "diff", "HEAD", "--binary", "--", *MEASURED), *contents]).strip()


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=False, cwd=root).stdout


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a benchmark, with the option that `require_commit` reads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--allow-dirty", action="store_true", help="measure uncommitted code; the result has a digest of it"
    )
    return parser


def require_commit(options: argparse.Namespace, root: Path = ROOT) -> None:
    """Exit if the measured code is not committed, because nobody could repeat the measurement."""
    if options.allow_dirty or not (changes(root) or code(root)["commit"] == "unknown"):
        return
    sys.exit(
        f"{root}: something is changed that no commit has (git status), and a result must name its commit. "
        "Commit it, or give --allow-dirty: the result then has a digest of the changes"
    )
