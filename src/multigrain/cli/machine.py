"""Check the machine: device, precision, threads, memory and disk."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from multigrain.cli.findings import Finding

GB = 10**9
QUICKSTART_MEMORY, LEAST_MEMORY = 3 * GB, 1 * GB
"""Memory that the quickstart takes, and that the libraries and a small model take without data, in bytes."""
QUICKSTART_DISK, LEAST_DISK = GB // 2, GB // 10
"""Disk space that the quickstart takes at its peak, rounded up, and below which no run can finish, in bytes."""
GET_TORCH = "Choose a build for your GPU at https://pytorch.org/get-started/locally"
CGROUP = Path("/sys/fs/cgroup")
"""Folder in which Linux shows a container its limits."""
DRIVER = Path("/proc/driver/nvidia/version")


def compute() -> Iterator[Finding]:
    """Check the device that torch uses, its support of bf16, and the number of threads."""
    import torch

    from multigrain.model.precision import uses_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        yield from _gpus()
    else:
        yield Finding("ok", "device", "CPU")
        if DRIVER.exists():
            built = "needs another driver (see nvidia-smi)" if torch.version.cuda else "is built for the CPU only"
            yield Finding("note", "GPU", f"found an NVIDIA GPU, but this torch {built}", GET_TORCH)
    if uses_bf16("auto", device):
        yield Finding("ok", "precision", "bf16; this device has instructions for it")
    else:
        yield Finding("ok", "precision", "fp32; this device has no instructions for bf16")
    yield _threads(torch.get_num_threads())


def _gpus() -> Iterator[Finding]:
    """Check each GPU that torch sees, by a computation on it."""
    import torch

    for number in range(torch.cuda.device_count()):
        name = f"{torch.cuda.get_device_name(number)}, CUDA {torch.version.cuda}"
        try:
            torch.ones(2, 2, device=f"cuda:{number}").sum().item()
            free, total = torch.cuda.mem_get_info(number)
        except RuntimeError as error:  # for example, a GPU too new or too old for this build
            found = f"{name}: cannot compute ({str(error).strip().splitlines()[0]})"
            advice = f"{GET_TORCH}, or hide the GPU: export CUDA_VISIBLE_DEVICES="
            yield Finding("wrong", "device", found, advice)
        else:
            yield Finding("ok", "device", f"{name}, {_gb(free)} of {_gb(total)} free")


def _threads(threads: int) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = min(float(cores), _cpu_quota())
    found = f"{threads} for {cores} CPU cores"
    if threads > math.ceil(granted):
        found = f"{threads}, but this process may use only {granted:g} CPU cores, so threads wait for each other"
        return Finding("note", "threads", found, f"Run before: export OMP_NUM_THREADS={math.ceil(granted)}")
    if "OMP_NUM_THREADS" in os.environ and threads < cores // 2:  # half the cores are hyperthreads
        return Finding("note", "threads", f"{found}; OMP_NUM_THREADS is set", "Unset it to make multigrain faster")
    return Finding("ok", "threads", found)


def _cpu_quota() -> float:
    """Return the number of CPU cores that the container may use; infinite if there is no limit."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no container, or "max"
        return math.inf


def memory() -> Iterator[Finding]:
    """Check the free memory."""
    free = min(_free_memory(), _free_in_container())
    found = f"{_gb(free)} free"
    if free < LEAST_MEMORY:
        found += f"; loading the libraries and a small model takes {_gb(LEAST_MEMORY)}"
        yield Finding("wrong", "memory", found, "Close other programs, or give the container more")
    elif free < QUICKSTART_MEMORY:
        advice = (
            "Close other programs before multigrain quickstart; for another run, multigrain check says what it needs"
        )
        yield Finding("note", "memory", f"{found}; the quickstart takes up to {_gb(QUICKSTART_MEMORY)}", advice)
    else:
        yield Finding("ok", "memory", found)


def _free_memory() -> float:
    """Return the memory available to programs, in bytes; all of the memory if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_container() -> float:
    """Return the bytes left below the container's limit; its file cache can be reclaimed, so it counts as free."""
    try:
        used = int((CGROUP / "memory.current").read_text())
        fields = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int((CGROUP / "memory.max").read_text()) - used + int(fields.get("inactive_file", 0))
    except (OSError, ValueError):  # no container, or "max"
        return math.inf


def disk(folder: Path) -> Iterator[Finding]:
    """Check that the place of a run folder can be written to, and has enough free space."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{_gb(free)} free in {place}"
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding("wrong", "disk", f"{place} cannot be written to", "Work in another folder, or set output")
    elif free < LEAST_DISK:
        yield Finding("wrong", "disk", found, "Free some space: a run keeps its texts, vectors and models there")
    elif free < QUICKSTART_DISK:
        yield Finding("note", "disk", f"{found}; the quickstart takes up to {_gb(QUICKSTART_DISK)}", "Free some space")
    else:
        yield Finding("ok", "disk", found)


def _gb(number: float) -> str:
    return f"{number / GB:.1f} GB"
