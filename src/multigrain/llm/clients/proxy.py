"""The proxy set in the environment."""

import base64
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import yarl

from multigrain.llm.loopback import is_loopback


class Proxy(NamedTuple):
    """The proxy for an address.

    Attributes:
        address: the proxy's address without the login; None for a direct connection.
        headers: the login, which must not appear in messages.
    """

    address: str | None
    headers: dict[str, str]


def proxy_for(url: str) -> Proxy:
    """Return the proxy that the environment sets for an address; none for this machine's own addresses."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if not proxy or is_loopback(host) or proxy_bypass(host):
        return Proxy(None, {})
    address = yarl.URL(proxy)
    if not address.user:
        return Proxy(proxy, {})
    login = base64.b64encode(f"{address.user}:{address.password or ''}".encode()).decode()
    return Proxy(str(address.with_user(None)), {"Proxy-Authorization": f"Basic {login}"})
