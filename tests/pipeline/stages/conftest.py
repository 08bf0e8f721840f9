"""What the tests of several stages use."""

import pytest

from multigrain.llm.clients.scripted import ScriptedClient
from multigrain.llm.protocol import Answer, Request


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that goes out."""
    found: list[Request] = []
    answer = ScriptedClient.complete

    async def complete(self: ScriptedClient, request: Request) -> Answer:
        found.append(request)
        return await answer(self, request)

    monkeypatch.setattr(ScriptedClient, "complete", complete)
    return found
