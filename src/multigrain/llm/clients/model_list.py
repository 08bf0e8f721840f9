"""A server's list of models."""

import re
from typing import Any


def names_in(listing: Any) -> list[str]:
    """Return the names in the reply to `/models`; none if it does not have OpenAI's form."""
    entries = listing.get("data") if isinstance(listing, dict) else listing
    if not isinstance(entries, list):
        return []
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return [id for id in ids if isinstance(id, str)]


def is_among(model: str, names: list[str]) -> bool:
    """Return whether a model is listed, by name or wildcard; a `models/` prefix or `:variant` suffix is ignored."""
    for name in names:
        pattern = ".*".join(re.escape(part) for part in _plain(name).split("*"))
        if re.fullmatch(pattern, _plain(model)):
            return True
    return False


def _plain(name: str) -> str:
    return name.removeprefix("models/").partition(":")[0].casefold()
