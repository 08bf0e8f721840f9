"""Checkpoints beside the regular ones: on an interruption, and after much time.

Processes that train together must do so at the same step, so they tell each other at the end of each.
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
"""Seconds in which a second signal is the first one's: a terminal and torchrun both send it to each process."""


class Stopping(TrainerCallback):  # type: ignore[misc]
    """Decide whether a checkpoint is wanted, and whether the training ends with it.

    Args:
        minutes: the longest time between two checkpoints.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._saved = time.monotonic()
        self._interrupted: float | None = None
        self._received = signal.SIGINT
        # A thread of its own, for what a signal interrupts may be printing.
        self._telling = threading.Thread(target=say, args=("  stopping after this step; once more stops at once",))
        self.ends = False
        """Whether the next checkpoint is the last thing that is done; the same in all processes."""

    @property
    def is_interrupted(self) -> bool:
        """Return whether this process was told to stop."""
        return self._interrupted is not None

    @property
    def is_due(self) -> bool:
        """Return whether the last checkpoint is too old."""
        return time.monotonic() - self._saved >= self._seconds

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the time of the checkpoint that was just written.

        Raises:
            KeyboardInterrupt: the training was to end with it.
        """
        self._saved = time.monotonic()
        if self.ends:
            raise KeyboardInterrupt

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Within the block, end the training on the first of `SIGNALS` after the step under way, on a second at once.

        Signals that are ignored stay so, and one that would end the process ends it, once there is a checkpoint.

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
