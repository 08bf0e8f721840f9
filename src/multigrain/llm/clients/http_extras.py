"""Headers and URL parameters that the user adds to each request."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HTTPExtras:
    """Additional headers and URL parameters of each request to a server."""

    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters added to the URL."""
    secrets: frozenset[str] = frozenset()
    """Values in these headers and parameters that must not appear in messages."""


NO_EXTRAS = HTTPExtras()
