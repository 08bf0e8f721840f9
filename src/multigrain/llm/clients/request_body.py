"""Request bodies for the OpenAI API."""

import json
from typing import Any, NamedTuple

from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Request


class Body(NamedTuple):
    """The JSON body of a request, and the path below the base URL to which it goes."""

    path: str
    fields: dict[str, Any]


def request_body(request: Request, dialect: Dialect) -> Body:
    """Write a request in the dialect of a server."""
    fields: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    fields |= json.loads(request.extra or "{}")
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.kind == "chat":
        fields["messages"] = [{"role": "user", "content": request.prompt}]
        return Body("chat/completions", dialect.spoken(fields, request.schema))
    fields["prompt"] = request.prompt
    return Body("completions", dialect.spoken(fields, None))


def encode(value: Any) -> bytes:
    """Encode a value as JSON; lone surrogates, which UTF-8 cannot encode, become question marks."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
