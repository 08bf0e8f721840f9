"""The scheduler's view of one server: how many requests it takes at once, and whether it is up."""

from collections.abc import Callable
from dataclasses import dataclass, field

from multigrain.llm.protocol import Client

BUSY_SHARE, CUT, GROWTH = 0.2, 0.75, 1 / 16
"""Control of the concurrency limit, at the end of each window of requests.

If more than `BUSY_SHARE` of them returned 429, the limit is multiplied by `CUT`; else it grows by one, plus `GROWTH`
times itself.
"""
SMALLEST_WINDOW = 8
"""Requests in a window, or the limit if that is larger."""
BREAK_AFTER = 8
"""Failures in a row after which a server is considered dead."""


@dataclass
class Server:
    """The state of one server.

    Attributes:
        client: sends the requests.
        most: upper bound of `limit`.
        limit: requests that may be under way at once at present.
        under_way: requests under way.
        is_up: whether requests are sent to it.
        held_until: time before which no request is sent, although it is up.
        latency: seconds per answer, as a moving average.
        failures_in_row: failed calls since it last answered anything.
        outages: times in a row that it was considered dead, without an answer in between.
        told_until: end of the wait that the server asked for, as the user was told.
        silent_since: time at which the first of those outages began.
    """

    client: Client
    most: int
    limit: int = field(init=False)
    under_way: int = 0
    is_up: bool = True
    held_until: float = 0.0
    latency: float = 0.0
    failures_in_row: int = 0
    outages: int = 0
    told_until: float = 0.0
    silent_since: float = 0.0
    _suspects: list[Callable[[], None]] = field(default_factory=list)
    _outcomes: int = 0
    _busy: int = 0
    _last_cut: float = 0.0

    def __post_init__(self) -> None:
        self.limit = self.most

    @property
    def load(self) -> float:
        """Share of the limit in use."""
        return self.under_way / self.limit

    def has_room(self, now: float) -> bool:
        """Return whether a request may be sent now."""
        return self.is_up and self.under_way < self.limit and self.held_until <= now

    def answered(self, now: float, seconds: float | None = None) -> None:
        """Record an answer or a refusal: the failures before were due to the inputs, and are charged to them.

        Args:
            now: the current time.
            seconds: duration of the answer; None for a refusal.
        """
        self.outages = 0
        if seconds is not None:
            self.latency = 0.9 * self.latency + 0.1 * seconds if self.latency else seconds
        if self.is_up:
            self.charge_suspects()
        self._count(now, busy=False)

    def busy(self, now: float, pause: float, was_asked: bool) -> None:
        """Record that the server is overloaded (429).

        Args:
            now: the current time.
            pause: seconds until the input is sent again.
            was_asked: whether the server asked for the pause; if most of its replies are 429 too, all inputs wait.
        """
        most_are = self._outcomes >= SMALLEST_WINDOW and self._busy > self._outcomes / 2
        self._count(now, busy=True)
        if self.limit == 1 or (was_asked and most_are):
            self.held_until = max(self.held_until, now + pause)

    def failed(self, charge: Callable[[], None]) -> bool:
        """Record a call without an answer.

        Args:
            charge: counts the failure against the input; called once it is clear that the server was not to blame.

        Returns:
            Whether the server is considered dead from now on.
        """
        self._suspects.append(charge)
        self.failures_in_row += 1
        return self.is_up and self.failures_in_row >= BREAK_AFTER

    def charge_suspects(self) -> None:
        """Charge the pending failures to their inputs."""
        for charge in self._suspects:
            charge()
        self._suspects.clear()

    def revive(self) -> None:
        """Record that the server is back: the failures meanwhile were its own fault."""
        self._suspects.clear()
        self.is_up, self.failures_in_row = True, 0

    def _count(self, now: float, busy: bool) -> None:
        """Adjust the limit to the share of 429 in a window; cut it at most once per latency."""
        self.failures_in_row = 0
        self._outcomes += 1
        self._busy += busy
        if self._outcomes < max(SMALLEST_WINDOW, self.limit):
            return
        if self._busy <= BUSY_SHARE * self._outcomes:
            self.limit = min(self.most, self.limit + 1 + int(self.limit * GROWTH))
        elif now - self._last_cut >= self.latency:
            self.limit = max(1, int(self.limit * CUT))
            self._last_cut = now
        self._outcomes = self._busy = 0
