"""The list of models of a server."""

import re
from typing import Any


def names_in(listing: Any) -> list[str]:
    """Return the names in the reply to `/models`; none where it has another form than OpenAI's."""
    entries = listing.get("data") if isinstance(listing, dict) else listing
    if not isinstance(entries, list):
        return []
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return [id for id in ids if isinstance(id, str)]


def is_among(model: str, names: list[str]) -> bool:
    """Return whether a model is listed, by name or wildcard; `models/` before it or a `:variant` behind is ignored."""
    for name in names:
        pattern = ".*".join(re.escape(part) for part in _plain(name).split("*"))
        if re.fullmatch(pattern, _plain(model)):
            return True
    return False


def _plain(name: str) -> str:
    return name.removeprefix("models/").partition(":")[0].casefold()
