import pytest

from multigrain.errors import LLMError
from tests.llm.clients.local_server import Handler, ask, with_server, with_status


@pytest.mark.parametrize(
    "handler",
    [
        with_status(403, "wrong key topsecret"),
        with_status(200, "<p>" + "x" * 66 + "topsecret"),
        with_status(200, '{"error": "wrong key topsecret"}'),
        with_status(302, "", Location="http://x/?key=topsecret"),
        with_status(500, "Bearer topsecret"),
    ],
)
def test_the_key_is_in_no_message(handler: Handler) -> None:
    with pytest.raises(LLMError) as caught:
        with_server(handler, lambda url: ask(url, key="topsecret"))
    assert "topsec" not in str(caught.value)
    assert "[key" in str(caught.value)
