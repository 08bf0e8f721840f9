"""From the `[llm]` section to a client."""

import os
import re

from multigrain import extras
from multigrain.config import VARIABLE, LLMSection
from multigrain.errors import ConfigError
from multigrain.llm.clients import scripted
from multigrain.llm.clients.http_extras import HTTPExtras
from multigrain.llm.protocol import Client


def make_clients(section: LLMSection) -> list[Client]:
    """The clients that the section asks for, one a server, not yet connected.

    Raises:
        ConfigError: the variable that should hold the key is not set.
    """
    if section.provider == "scripted":
        return [scripted.ScriptedClient()]
    if section.provider == "embedded":
        from multigrain.llm.clients.embedded import EmbeddedClient

        return [EmbeddedClient(section.timeout)]
    from multigrain.llm.clients.endpoint import EndpointClient

    assert section.model  # the section has checked it
    key, extras = api_key(section), extras_of(section)
    return [EndpointClient(url, section.model, key, section.timeout, extras) for url in section.base_url]


def api_key(section: LLMSection) -> str | None:
    """The key from the environment.

    Raises:
        ConfigError: the variable is not set, or holds no key.
    """
    if section.api_key_env is None:
        return None
    if not (key := os.environ.get(section.api_key_env)):
        raise ConfigError("llm.api_key_env", [f"the environment variable {section.api_key_env} is not set"])
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError("llm.api_key_env", [f"{section.api_key_env} holds characters that no key has (a line end?)"])
    return key


def extras_of(section: LLMSection) -> HTTPExtras:
    """Headers and query of the section, with the values of the environment variables that they name.

    Raises:
        ConfigError: a variable is not set, or no header can hold its value.
    """
    secrets: set[str] = set()

    def filled(key: str, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if not (value := os.environ.get(name)):
                raise ConfigError(key, [f"the environment variable {name} is not set"])
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(key, [f"{name} holds characters that cannot be sent (a line end?)"])
            secrets.add(value)
            return value

        return VARIABLE.sub(value, text)

    headers = {name: filled(f"llm.extra_headers.{name}", text) for name, text in section.extra_headers.items()}
    query = {name: filled(f"llm.query.{name}", text) for name, text in section.query.items()}
    return HTTPExtras(headers, query, frozenset(secrets))


def model_name(section: LLMSection) -> str:
    """The name that goes into requests and records."""
    if section.provider == "endpoint":
        assert section.model  # the section has checked it
        return section.model
    return scripted.MODEL if section.provider == "scripted" else extras.MODEL
