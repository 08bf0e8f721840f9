import pytest

from multigrain.errors import LLMError, LLMRefused, LLMReplyError, LLMUnavailable
from tests.llm.clients.local_server import (
    Handler,
    ask,
    cut,
    drip,
    elsewhere,
    endless,
    hang,
    html,
    huge,
    nested,
    no_choices,
    stream,
    with_server,
    with_status,
)


@pytest.mark.parametrize(
    ("handler", "kind", "expected"),
    [
        (html, LLMReplyError, "not JSON: '<html>Welcome"),
        (no_choices, LLMReplyError, "not an OpenAI-style answer"),
        (stream, LLMReplyError, "breaks off after: 'half'"),
        (endless, LLMReplyError, "longer than"),
        (drip, LLMUnavailable, "no answer within 2 s"),
        (nested, LLMReplyError, "not JSON"),
        (elsewhere, LLMRefused, "redirects to http://evil.example/"),
        (huge, LLMReplyError, "longer than"),
        (hang, LLMUnavailable, "no answer within 2 s"),
        (cut, LLMUnavailable, "chat/completions"),
        (with_status(429), LLMUnavailable, "HTTP 429: because"),
        (with_status(503), LLMUnavailable, "HTTP 503"),
        (with_status(400), LLMRefused, "HTTP 400: because"),
        (with_status(401), LLMRefused, "key was refused"),
    ],
)
def test_each_fault_of_the_server_has_its_kind(handler: Handler, kind: type[LLMError], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        with_server(handler, lambda url: ask(url, timeout=2))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (429, '{"error": {"code": "insufficient_quota"}}'),
        (402, '{"error": {"message": "Insufficient credits"}}'),
        (402, "Payment Required"),
        (403, "Insufficient Balance"),
    ],
)
def test_an_account_without_credit_is_not_merely_busy(status: int, said: str) -> None:
    with pytest.raises(LLMRefused, match="no credit left"):
        with_server(with_status(status, said), ask)


def test_only_what_may_have_been_charged_for_counts_as_such() -> None:
    billed = {}
    handlers = {"cut": cut, "hang": hang, "html": html, "500": with_status(500), "502": with_status(502)}
    for name, handler in handlers.items():
        with pytest.raises(LLMError) as caught:
            with_server(handler, lambda url: ask(url, timeout=2))
        billed[name] = caught.value.billed
    assert billed == {"cut": True, "hang": True, "html": True, "500": False, "502": True}
