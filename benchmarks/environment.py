"""What a result was measured with."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def environment(*packages: str) -> dict[str, Any]:
    """Commit, processor, GPU if there is one, what precision = "auto" is, and versions of Python and these packages."""
    import torch  # which some benchmarks do not need, and which takes memory that they measure

    from multigrain.model.precision import uses_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    information = Path("/proc/cpuinfo")
    processor = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return {
        "commit": _commit(),
        "processor": f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores",
        **({"gpu": torch.cuda.get_device_name()} if device.type == "cuda" else {}),
        "auto": "bf16" if uses_bf16("auto", device) else "fp32",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _commit() -> str:
    """Of what lies there; "-dirty" where anything was changed but results and the pages that show them."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!benchmarks/results")
    return git("describe", "--always") + ("-dirty" if changes else "")
