"""Recognize addresses of this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
