"""Remove secrets from messages: some servers repeat the secrets sent with a request."""

import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

import yarl

from multigrain.errors import LLMError

SHORTEST_SECRET = 4
"""Length, in characters, below which a secret is not removed: that would garble every message."""


class Redactor:
    """Replace secrets by `[key]`, both as they are and as encoded in JSON and URLs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                sent = yarl.URL("/").with_query({"": secret}).raw_query_string.lstrip("=")
                forms |= {secret, json.dumps(secret)[1:-1], quote(secret), quote_plus(secret), sent}
        self._forms = sorted(forms, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return the text without the secrets."""
        for form in self._forms:
            text = text.replace(form, "[key]")
        return text

    def redact_error(self, error: LLMError) -> LLMError:
        """Remove the secrets from an error's message, and return the error."""
        error.args = (self.redact(str(error)),)
        return error
