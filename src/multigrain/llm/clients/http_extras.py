"""Headers and parameters that the user adds to each request."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HTTPExtras:
    """Headers and parameters of each request to a server, beside its body."""

    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters added to the address."""
    secrets: frozenset[str] = frozenset()
    """Values in these headers and parameters that no message may show."""


NO_EXTRAS = HTTPExtras()
