"""What a result was measured with."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def environment(*packages: str) -> dict[str, Any]:
    """Commit, processor, and the versions of Python and of these packages."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    information = Path("/proc/cpuinfo")
    processor = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return {
        "commit": commit.stdout.strip(),
        "processor": f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
