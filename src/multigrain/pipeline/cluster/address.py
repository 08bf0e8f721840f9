"""Check that a Ray cluster answers at an address, because connecting to one has no time limit."""

import os
import socket

from multigrain.errors import ConfigError

SECONDS = 5.0
"""How long a cluster may take to answer."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2, and so of gRPC, sends first: the preface, and empty settings."""
SETTINGS = 4
"""Type of the frame that a server of HTTP/2 sends first."""
OPTION = "--address"


def require_answer(address: str) -> None:
    """Check that a server of gRPC, as the head of a Ray cluster is, answers at HOST:PORT.

    Raises:
        ConfigError: the address has another form, or nothing answers there within `SECONDS`.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(OPTION, [f"found {address!r}; wanted HOST:PORT of the head of a Ray cluster"])
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as connection:
            connection.settimeout(SECONDS)
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(PREFACE)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        found = f"no Ray cluster answers at {address} ({error or type(error).__name__})"
        raise ConfigError(OPTION, [f"{found}. On the head, ray start --head prints its address"]) from None
    if answer[3:4] != bytes([SETTINGS]):
        raise ConfigError(OPTION, [f"what answers at {address} is no Ray cluster. Give the port of its GCS (6379)"])
