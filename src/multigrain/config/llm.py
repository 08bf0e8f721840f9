"""The section `[llm]`: the language model, its servers, caps and prices."""

import json
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Section


class PricesSection(Section):
    """Prices of the language model, in dollars per million tokens."""

    input: float = Field(ge=0)
    """Price of the tokens of prompts, in dollars per million."""
    output: float = Field(ge=0)
    """Price of the tokens of answers, in dollars per million."""


def _server(url: str) -> str:
    """Return the address without a trailing slash.

    Raises:
        ValueError: it is not an http(s) address, or contains a login or a query; keys come from the environment.
    """
    wanted = f'found "{url}"; wanted http(s)://HOST[:PORT]/PATH, such as https://api.example.com/v1'
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ValueError(f"{wanted} ({error})") from None
    if not is_good or parts.username or parts.query or parts.fragment or re.search(r"\s", url):
        raise ValueError(f"{wanted}, without login or query (put parameters into llm.query)")
    return url.rstrip("/")


OWN_FIELDS = {
    "model": "llm.model",
    "temperature": "llm.temperature",
    "max_tokens": "synthesis.answer_tokens",
    "max_completion_tokens": "synthesis.answer_tokens",
    "seed": "seed",
    "messages": "synthesis.prompts",
    "prompt": "synthesis.prompts",
} | dict.fromkeys(("stop", "stream", "stream_options", "response_format", "n", "best_of"))
"""Fields of a request that users cannot add -> the setting to use instead, if there is one."""
OWN_HEADERS = ("content-type", "content-length", "transfer-encoding", "host", "connection")
SECRET = re.compile(r"authorization|(?:^|[-_ ]|api)(?:key|token|secret|password|cookie|credentials?)$", re.IGNORECASE)
"""Names of headers and parameters whose values must come from the environment."""
VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
"""A reference to an environment variable in a value."""


class LLMSection(Section):
    """Settings of the language model that writes queries, pairs and negatives."""

    provider: Literal["embedded", "endpoint", "scripted"] = "embedded"
    """Language model to use: `embedded` (SmolLM2-135M-Instruct on this machine), `endpoint` (an OpenAI-compatible
    server), or `scripted` (answers made up without a model, for tests)."""
    base_url: list[str] = []
    """Address of an OpenAI-compatible server, such as `https://api.example.com/v1`, or a list of addresses that serve
    the same model. Required for `endpoint`."""
    model: str | None = None
    """Name of the model at the server. Required for `endpoint`."""
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the API key. By default no key is sent."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Sampling temperature of the language model."""
    max_concurrency: int = Field(8, ge=1)
    """Maximum number of concurrent requests to each server."""
    max_requests: int | None = Field(None, ge=0)
    """Maximum number of requests. Like `max_tokens` and `max_cost`, this cap covers all commands in the run folder
    together, and is never exceeded. By default there is no cap."""
    max_tokens: int | None = Field(None, ge=0)
    """Maximum number of tokens of all prompts and answers together. By default there is no cap."""
    max_cost: float | None = Field(None, ge=0)
    """Maximum cost of all requests together, in dollars. By default there is no cap."""
    prices: PricesSection | None = None
    """Prices of the model. By default the prices listed by the package `genai-prices`; a server on this machine costs
    nothing."""
    timeout: float = Field(120, gt=0, le=86_400)
    """Maximum duration of one request, in seconds."""
    extra_body: dict[str, Any] = {}
    """Additional fields of each request, such as `{ chat_template_kwargs = { enable_thinking = false } }`."""
    extra_headers: dict[str, str] = {}
    """Additional HTTP headers, such as `{ api-key = "$MY_KEY" }`. `$NAME` and `${NAME}` stand for environment
    variables."""
    query: dict[str, str] = {}
    """Query parameters added to each address, such as `{ api-version = "2024-10-21" }`. Environment variables are
    written as in `extra_headers`."""

    @property
    def extra(self) -> str:
        """Return `extra_body` as JSON, the same for equal fields; empty if there are none."""
        return json.dumps(self.extra_body, sort_keys=True) if self.extra_body else ""

    @field_validator("extra_body")
    @classmethod
    def _fields_are_free(cls, fields: dict[str, Any]) -> dict[str, Any]:
        for name in fields:
            if name in OWN_FIELDS:
                instead = f"; set {OWN_FIELDS[name]} instead" if OWN_FIELDS[name] else ""
                raise ValueError(f'found "{name}", which multigrain sets itself{instead}')
        try:
            json.dumps(fields, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"wanted values that JSON can represent ({error})") from None
        return fields

    @field_validator("extra_headers")
    @classmethod
    def _headers_are_free(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f'found "{name}", which is not a valid header name')
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f'the value of "{name}" contains characters not allowed in a header (a line break?)')
            if name.lower() in OWN_HEADERS:
                raise ValueError(f'found "{name}", which multigrain sets itself')
        return headers

    @field_validator("extra_headers", "query")
    @classmethod
    def _keys_come_from_the_environment(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if SECRET.search(name) and not VARIABLE.search(value):
                wanted = 'wanted the name of an environment variable, such as "$MY_KEY"'
                raise ValueError(f'the value of "{name}" would be written to disk as it is; {wanted}')
        return values

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> "LLMSection":
        if self.provider == "endpoint" and not (self.base_url and self.model):
            raise ValueError('provider = "endpoint" also needs base_url and model')
        if len(set(self.base_url)) < len(self.base_url):
            raise ValueError("base_url names a server twice")
        return self

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        urls = [value] if isinstance(value, str) else value
        return [_server(url) if isinstance(url, str) else url for url in urls] if isinstance(urls, list) else urls
