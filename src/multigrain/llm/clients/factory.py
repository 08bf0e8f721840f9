"""Make the clients of the `[llm]` section, with the key and headers from the environment."""

import os
import re

from multigrain import extras
from multigrain.config import VARIABLE, LLMSection
from multigrain.errors import ConfigError
from multigrain.llm.clients import scripted
from multigrain.llm.clients.http_extras import HTTPExtras
from multigrain.llm.protocol import Client


def make_clients(section: LLMSection) -> list[Client]:
    """Make the section's clients, one for each server, not yet connected.

    Raises:
        ConfigError: a variable for the key, a header or a URL parameter is not set, or cannot be sent.
    """
    if section.provider == "scripted":
        return [scripted.ScriptedClient()]
    if section.provider == "embedded":
        from multigrain.llm.clients.embedded import EmbeddedClient

        return [EmbeddedClient(section.timeout)]
    from multigrain.llm.clients.endpoint import EndpointClient

    assert section.model  # the section has checked it
    key, http_extras = api_key(section), extras_of(section)
    return [EndpointClient(url, section.model, key, section.timeout, http_extras) for url in section.base_url]


def api_key(section: LLMSection) -> str | None:
    """Return the key from the environment; None if the section names no variable.

    Raises:
        ConfigError: the variable is not set, or holds no key.
    """
    if section.api_key_env is None:
        return None
    key = _value(section.api_key_env, "llm.api_key_env")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError("llm.api_key_env", [f"{section.api_key_env} has characters that no key has (a line break?)"])
    return key


def extras_of(section: LLMSection) -> HTTPExtras:
    """Return the section's headers and URL parameters, with the environment variables that they name filled in.

    Raises:
        ConfigError: a variable is not set, or its value cannot be sent.
    """
    values: dict[str, str] = {}
    headers = {name: _filled(text, f"llm.extra_headers.{name}", values) for name, text in section.extra_headers.items()}
    query = {name: _filled(text, f"llm.query.{name}", values) for name, text in section.query.items()}
    return HTTPExtras(headers, query, secrets=frozenset(values.values()))


def model_name(section: LLMSection) -> str:
    """Return the model's name in requests and records."""
    if section.provider == "endpoint":
        assert section.model  # the section has checked it
        return section.model
    return scripted.MODEL if section.provider == "scripted" else extras.MODEL


def _filled(text: str, setting: str, values: dict[str, str]) -> str:
    """Replace the variables in a text by their values, and add these to `values` by name."""
    for found in VARIABLE.finditer(text):
        name = _name(found)
        value = _value(name, setting)
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(setting, [f"{name} has characters that cannot be sent (a line break?)"])
        values[name] = value
    return VARIABLE.sub(lambda found: values[_name(found)], text)


def _name(found: re.Match[str]) -> str:
    """Return the name in a match of `VARIABLE`, written as `$NAME` or `${NAME}`."""
    return found[1] or found[2]


def _value(name: str, setting: str) -> str:
    """Return the value of an environment variable that a setting names."""
    value = os.environ.get(name)
    if not value:
        raise ConfigError(setting, [f"the environment variable {name} is not set"])
    return value
