"""One server as the scheduler sees it: how many requests it takes at once, and whether it is up."""

from collections.abc import Callable
from dataclasses import dataclass, field

from multigrain.llm.protocol import Client

BUSY_SHARE, CUT, GROWTH = 0.2, 0.75, 1 / 16
"""Control of the limit, at the end of each window of requests.

If more than `BUSY_SHARE` of them met 429, the limit is multiplied by `CUT`; else it grows by one, plus `GROWTH` times
itself.
"""
SMALLEST_WINDOW = 8
"""Requests in a window, or as many as the limit if that is larger."""
BREAK_AFTER = 8
"""Failures in a row after which a server is taken for dead."""


@dataclass
class Server:
    """The state of one server.

    Attributes:
        client: sends the requests.
        most: requests that may ever be under way at once.
        limit: requests that may be under way at once now.
        under_way: requests that are under way.
        is_up: whether requests are sent to it.
        held_until: moment before which no request is sent, although it is up.
        latency: seconds that an answer takes, as a moving average.
        failures_in_row: failed calls since it last answered anything.
        outages: times in a row that it was taken for dead, without an answer between them.
        told_until: moment until which the server wants to be left alone, as the user has been told.
        silent_since: moment at which the first of those outages began.
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
        """Share of the limit that is in use."""
        return self.under_way / self.limit

    def has_room(self, now: float) -> bool:
        """Return whether a request may be sent now."""
        return self.is_up and self.under_way < self.limit and self.held_until <= now

    def answered(self, now: float, seconds: float | None = None) -> None:
        """Note that the server answered or refused: the failures before were the inputs' own, and are charged to them.

        Args:
            now: the moment.
            seconds: time that the answer took; None for a refusal.
        """
        self.outages = 0
        if seconds is not None:
            self.latency = 0.9 * self.latency + 0.1 * seconds if self.latency else seconds
        if self.is_up:
            self.charge_suspects()
        self._count(now, busy=False)

    def busy(self, now: float, pause: float, was_asked: bool) -> None:
        """Note that the server has too much to do (429).

        Args:
            now: the moment.
            pause: seconds until the input is sent again.
            was_asked: whether the server asked for the pause; if most of its answers do, all wait.
        """
        most_are = self._outcomes >= SMALLEST_WINDOW and self._busy > self._outcomes / 2
        self._count(now, busy=True)
        if self.limit == 1 or (was_asked and most_are):
            self.held_until = max(self.held_until, now + pause)

    def failed(self, charge: Callable[[], None]) -> bool:
        """Note that the server did not answer.

        Args:
            charge: counts the failure against the input; called once it is clear that the server was not to blame.

        Returns:
            Whether the server is taken for dead from now on.
        """
        self._suspects.append(charge)
        self.failures_in_row += 1
        return self.is_up and self.failures_in_row >= BREAK_AFTER

    def charge_suspects(self) -> None:
        """Count the failures that were held back against their inputs."""
        for charge in self._suspects:
            charge()
        self._suspects.clear()

    def revive(self) -> None:
        """Note that the server is back: the failures meanwhile were its fault alone."""
        self._suspects.clear()
        self.is_up, self.failures_in_row = True, 0

    def _count(self, now: float, busy: bool) -> None:
        """Move the limit by the share of 429 in a window, and cut at most once in a latency."""
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
