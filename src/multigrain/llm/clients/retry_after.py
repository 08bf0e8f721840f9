"""Read the wait that a server asks for."""

import email.utils
import time
from collections.abc import Mapping
from datetime import UTC

LONGEST_WAIT = 3600.0
"""Longest wait that a server may ask for, in seconds."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, from `Retry-After` (seconds or a date) or OpenAI's `retry-after-ms`.

    Args:
        headers: the headers of a response; names in any case.

    Returns:
        0 to `LONGEST_WAIT`; None if the server does not say.
    """
    seconds = headers.get("Retry-After", "").strip()
    milliseconds = headers.get("retry-after-ms", "").strip()
    try:
        if _is_number(milliseconds):
            asked = float(milliseconds) / 1000
        elif _is_number(seconds):
            asked = float(seconds)
        else:
            asked = _moment(seconds) - _now(headers)
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, asked), LONGEST_WAIT)


def _now(headers: Mapping[str, str]) -> float:
    """Return the server's time if it sends one: the local clock may differ from it by minutes."""
    try:
        return _moment(headers["Date"])
    except (KeyError, ValueError, OverflowError):
        return time.time()


def _moment(date: str) -> float:
    """Return the Unix time of an HTTP date, whose zone is always GMT."""
    moment = email.utils.parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit()
