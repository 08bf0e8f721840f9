"""Extra checkpoints: on an interruption, and after a given time.

Processes that train together must save at the same step, so they exchange their state at the end of each step.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from multigrain.terminal import leave_hung_up, say
from multigrain.training import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 5.0
"""Seconds in which a second signal counts as the first: a terminal and torchrun both send it to each process."""


class Stopping(TrainerCallback):  # type: ignore[misc]
    """Decide whether to write a checkpoint, and whether the training ends with it.

    Args:
        minutes: the longest time between two checkpoints, in minutes.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._saved = time.monotonic()
        self._interrupted: float | None = None
        self._received = signal.SIGINT
        # In its own thread, because the signal may interrupt code that is printing.
        self._telling = threading.Thread(target=say, args=("  stopping after this step; again to stop at once",))
        self.ends = False
        """Whether training ends after the next checkpoint; the same in all processes."""

    @property
    def is_interrupted(self) -> bool:
        """Return whether this process was told to stop."""
        return self._interrupted is not None

    @property
    def is_due(self) -> bool:
        """Return whether the last checkpoint is too old."""
        return time.monotonic() - self._saved >= self._seconds

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the time of the checkpoint.

        Raises:
            KeyboardInterrupt: the training ends with this checkpoint.
        """
        self._saved = time.monotonic()
        if self.ends:
            raise KeyboardInterrupt

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Within the block, stop after the current step on the first of `SIGNALS`, and at once on the second.

        Ignored signals stay ignored. A signal that would have ended the process does so once there is a checkpoint.

        Raises:
            KeyboardInterrupt: a signal came after the last step.
        """
        taken = {}
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in SIGNALS}
            taken = {number: old for number, old in found.items() if callable(old) or old is signal.SIG_DFL}
        for number in taken:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, old in taken.items():
                signal.signal(number, old)
            if self.is_interrupted:
                self._telling.join()
                if distributed.count() == 1 and taken[self._received] is signal.SIG_DFL:
                    signal.raise_signal(self._received)
        if self.is_interrupted:
            raise KeyboardInterrupt

    def _note(self, number: int, _frame: object) -> None:
        leave_hung_up()
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted, self._received = now, signal.Signals(number)
            self._telling.start()
        elif distributed.count() == 1 or now - self._interrupted > ECHO:
            raise KeyboardInterrupt
