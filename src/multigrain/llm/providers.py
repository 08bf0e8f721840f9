"""From the `[llm]` section to a client."""

import os

from multigrain import weights
from multigrain.config import LLMSection
from multigrain.errors import ConfigError
from multigrain.llm import scripted
from multigrain.llm.client import Client


def make_clients(section: LLMSection) -> list[Client]:
    """The clients that the section asks for, one a server, not yet connected.

    Raises:
        ConfigError: the variable that should hold the key is not set.
    """
    if section.provider == "scripted":
        return [scripted.ScriptedClient()]
    if section.provider == "embedded":
        from multigrain.llm.embedded import EmbeddedClient

        return [EmbeddedClient(section.timeout)]
    from multigrain.llm.endpoint import EndpointClient

    assert section.model  # the section has checked it
    return [EndpointClient(url, section.model, api_key(section), section.timeout) for url in section.base_url]


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


def model_name(section: LLMSection) -> str:
    """The name that goes into requests and records."""
    if section.provider == "endpoint":
        assert section.model  # the section has checked it
        return section.model
    return scripted.MODEL if section.provider == "scripted" else weights.MODEL
