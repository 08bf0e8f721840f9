"""One server as the scheduler sees it: how many requests it takes at once, and whether it is up."""

from collections.abc import Callable
from dataclasses import dataclass, field

from multigrain.llm.protocol import Client

BUSY_SHARE, CUT, GROWTH = 0.2, 0.75, 1 / 16
"""Where more than this share of a window's requests met 429, the limit is cut to so much; else it grows by one and this
share of itself."""
SMALLEST_WINDOW = 8
"""Outcomes after which the share is looked at; with a higher limit, that many."""
BREAK_AFTER = 8
"""Failures in a row after which a server is taken for dead."""


@dataclass
class Server:
    """The state of one server.

    Attributes:
        client: how it is reached.
        most: requests that it may ever have under way at once.
        limit: that it may have now.
        under_way: that it has.
        is_up: whether requests are sent to it.
        held_until: moment before which none is sent, although it is up.
        latency: seconds that an answer takes, on the way.
        failures_in_row: since it last answered anything.
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
    """Times in a row that it was taken for dead, without an answer between them."""
    told_until: float = 0.0
    """The user knows that the server wants to be left alone until then."""
    silent_since: float = 0.0
    """When the first of these began."""
    _suspects: list[Callable[[], None]] = field(default_factory=list)
    _outcomes: int = 0
    _busy: int = 0
    _last_cut: float = 0.0

    def __post_init__(self) -> None:
        self.limit = self.most

    @property
    def load(self) -> float:
        """Share of the limit that is under way."""
        return self.under_way / self.limit

    def has_room(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return self.is_up and self.under_way < self.limit and self.held_until <= now

    def answered(self, now: float, seconds: float | None = None) -> None:
        """Something came back, so the failures before it were the inputs' own: charge them.

        Args:
            now: the moment.
            seconds: that a whole answer took.
        """
        self.outages = 0
        if seconds is not None:
            self.latency = 0.9 * self.latency + 0.1 * seconds if self.latency else seconds
        if self.is_up:
            self.charge_suspects()
        self._count(now, busy=False)

    def busy(self, now: float, pause: float, was_asked: bool) -> None:
        """The server said that it has too much to do (429).

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
        """The server did not answer. Returns whether it is to be taken for dead from now on.

        Args:
            charge: counts the failure against the input; called once it is clear that the server was not to blame.
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
        """The server is back; what failed meanwhile was its fault alone."""
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
