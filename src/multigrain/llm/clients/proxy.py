"""The proxy that the environment names."""

import base64
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import yarl

from multigrain.llm.loopback import is_loopback


class Proxy(NamedTuple):
    """The way to an address.

    Attributes:
        address: the proxy's, without the login; None to go there directly.
        headers: the login, which no message may show.
    """

    address: str | None
    headers: dict[str, str]


def proxy_for(url: str) -> Proxy:
    """Return the proxy that the environment names for an address; none for this machine's own addresses."""
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
