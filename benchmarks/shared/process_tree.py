"""Measure a command and all its children from /proc (Linux), in a separate session."""

import atexit
import os
import signal
import subprocess
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SAMPLE_EVERY = 0.05
"""Seconds between two samples of the CPU time."""
MEMORY_EVERY = 4
"""Samples of the CPU time between two of the memory, which cost more."""
TICKS = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """A running command, measured until it ends.

    Attributes:
        started, ended: seconds of the clock; `ended` is None while it runs.
        exit_code: as in a shell, negative for signals; None while it runs.
        memory: the highest sum of PSS over the tree, sampled five times a second, in bytes. PSS divides the pages that
            several processes share.
        peak_rss: `VmHWM` of the command's own process, in bytes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self.ended: float | None = None
        self.exit_code: int | None = None
        self.memory = self.peak_rss = 0
        self._samples: list[tuple[float, float]] = []
        self._log = log
        self._over = threading.Event()
        self.started = time.time()
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._await, self._sample)]
        for thread in self._threads:
            thread.start()
        atexit.register(self.kill)  # in a separate session, it does not receive Ctrl-C

    @property
    def cpu(self) -> float:
        """CPU seconds of the whole tree so far."""
        return max((seconds for _, seconds in self._samples), default=0.0)

    def cpu_at(self, moment: float) -> float:
        """CPU seconds of the tree up to a moment, interpolated linearly between two samples."""
        index = bisect_right(self._samples, (moment, float("inf")))
        before = self._samples[index - 1] if index else (self.started, 0.0)
        if index == len(self._samples):
            return before[1]
        after = self._samples[index]
        return before[1] + (after[1] - before[1]) * (moment - before[0]) / (after[0] - before[0])

    def wait(self, limit: float) -> bool:
        """Wait for the end, at most `limit` seconds from the start; return whether it came."""
        came = self._over.wait(max(0.0, self.started + limit - time.time()))
        if came:
            self._join()
        return came

    def kill(self) -> None:
        """Send SIGKILL to the whole tree at once, and to orphaned processes."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for pid in self._members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._join()
        atexit.unregister(self.kill)

    def last_line(self) -> str:
        """Return the last line that the command printed."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[-200:]

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _await(self) -> None:
        _, status, usage = os.wait4(self._process.pid, 0)
        self.ended = time.time()
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self._over.set()
        self._threads[1].join()
        # This includes children that were waited for; others are only in the samples.
        self._samples.append((self.ended, max(self.cpu, usage.ru_utime + usage.ru_stime)))

    def _sample(self) -> None:
        number = 0
        while not self._over.wait(SAMPLE_EVERY):
            moment = time.time()
            members = list(self._members())
            self._samples.append((moment, max(self.cpu, sum(map(_cpu, members)))))
            if number % MEMORY_EVERY == 0:
                shared_out = sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in members)
                self.memory = max(self.memory, shared_out * 1024)
                self.peak_rss = max(self.peak_rss, _kilobytes(self._process.pid, "status", "VmHWM:") * 1024)
            number += 1

    def _members(self) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _fields(int(entry.name))[3:4] == [str(self._process.pid)]:
                yield int(entry.name)


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may contain blanks; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and of the children that it has waited for."""
    return sum(map(int, _fields(pid)[11:15])) / TICKS


def _kilobytes(pid: int, file: str, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
